"""How large a number may be, wherever it comes from: an option, a profile or an argument."""

import argparse
from collections.abc import Callable
from typing import Any

RANGES: dict[str, tuple[int, int]] = {  # from and to, both allowed; the largest are far beyond what anybody has done
    "seed": (0, 2**31 - 1),  # what every library's generator takes
    **dict.fromkeys(("count", "objects", "prompts", "videos"), (1, 10**9)),
    **dict.fromkeys(("views", "views_3d", "frames"), (1, 10_000)),
    **dict.fromkeys(("size", "render_size", "image_size", "resolution", "patch_size"), (1, 8192)),
    **dict.fromkeys(("batch_size", "generate_batch"), (1, 2**20)),
    **dict.fromkeys(("workers", "seeds", "shards"), (1, 10_000)),
    "inference_steps": (1, 10_000),
    "samples_per_ray": (2, 4096),
    "port": (0, 65_535),
}


def check_ranges(**values: Any) -> None:
    """Raise ValueError that names the first of these numbers which is not whole or out of its range; None is none."""
    for name, value in values.items():
        least, most = RANGES[name]
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise ValueError(f"{name} must be a whole number from {least} to {most:,}, not {value!r}")


def in_range(name: str) -> Callable[[str], int]:
    """The type of an option that is a whole number in the range of `name` (`RANGES`)."""

    def read(text: str) -> int:
        try:
            check_ranges(**{name: int(text)})
            return int(text)
        except ValueError:
            least, most = RANGES[name]
            wrong = f"must be a whole number from {least} to {most:,}, not {text[:40]}"
            raise argparse.ArgumentTypeError(wrong) from None

    return read
