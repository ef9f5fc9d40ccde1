"""How many CPU cores are ours: the one answer for everything that starts processes or threads."""

import os


def cpus(most: int | None = None) -> int:
    """Cores that this process may use, `most` at most: not the machine's, but what it was given of them.

    By SLURM, whose job may see cores that it was not given; by a container's quota; by taskset.
    """
    from joblib import cpu_count  # takes a moment

    said = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    given = [int(text) for text in said if text.isdecimal() and int(text)][:1]
    return min([cpu_count(), *given, *([most] if most else [])])
