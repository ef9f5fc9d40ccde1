"""Which arithmetic a step is done in: bfloat16 only where the machine has instructions for it, if a profile says auto.

On a CPU without them, products in bfloat16 take many times longer than in float32.
"""

import functools

import torch


@functools.cache
def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices by instructions of its own."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def resolve(mixed_precision: str, device: torch.device) -> str:
    """What a profile's `mixed_precision` ("no", "bf16" or "auto") comes to on a device: "no" or "bf16"."""
    if mixed_precision != "auto":
        return mixed_precision
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    on_cpu = device.type == "cpu" and has_bfloat16()
    return "bf16" if on_gpu or on_cpu else "no"


def autocast(mixed_precision: str, device: torch.device) -> torch.autocast:
    """The context in which PyTorch computes matrix products and convolutions as `mixed_precision` says on a device.

    It changes nothing for "no".
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve(mixed_precision, device) == "bf16")
