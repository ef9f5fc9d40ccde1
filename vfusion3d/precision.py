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
    """ "no" or "bf16" for a profile's "no", "bf16" or "auto"."""
    if mixed_precision != "auto":
        return mixed_precision
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else has_bfloat16()
    return "bf16" if fast else "no"


def autocast(mixed_precision: str, device: torch.device) -> torch.autocast:
    """The context in which PyTorch computes products in that precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve(mixed_precision, device) == "bf16")
