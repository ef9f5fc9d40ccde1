"""What this machine can hold: said before work starts that could never end on it."""

import os
from pathlib import Path

import psutil

CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes of memory that a process may have here: the machine's, or less where a container or a limit says so."""
    limits = [psutil.virtual_memory().total + psutil.swap_memory().total]
    said = [path.read_text().strip() for path in map(Path, CONTROL_GROUPS) if path.is_file()]
    limits += [int(text) for text in said if text.isdigit()]  # "max" where there is none
    if os.name == "posix":
        import resource

        limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min(limits)


def check_memory(what: str, needed: float, device: str = "cpu") -> None:
    """Raise ValueError where `needed` bytes, counted on the low side, are more than there are. what: names the options.

    device: "cuda" asks the GPU, where there is one.
    """
    there, where = machine_memory(), "this machine"
    if str(device).startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            there, where = torch.cuda.mem_get_info()[1], "this GPU"
    if needed > there:
        raise ValueError(
            f"{what} would need {_gigabytes(needed)} GB of memory or more, and {where} has {_gigabytes(there)}"
        )


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g}" if count < 1e15 else "over a million"
