"""What a category's function is given, and what it gives back: proportions in, parts out."""

from dataclasses import dataclass

from vfusion3d.world.patterns import RGB
from vfusion3d.world.shapes import Shape

MATERIALS: dict[str, RGB] = {
    "wood": (142, 92, 52),
    "metal": (158, 162, 168),
    "gold": (222, 178, 60),
    "glass": (150, 200, 228),
    "tyre": (38, 38, 42),
    "coal": (30, 30, 34),
    "paper": (240, 234, 218),
    "snow": (238, 240, 244),
    "stone": (140, 136, 130),
    "waffle": (214, 158, 92),
    "carrot": (240, 128, 30),
    "leaf": (70, 140, 60),
    "lamplight": (255, 226, 130),
    "cherry": (190, 24, 44),
}


@dataclass(frozen=True)
class Proportions:
    """Factors on a category's usual size along z, y and x; 1 is usual."""

    height: float = 1.0
    width: float = 1.0
    length: float = 1.0


@dataclass(frozen=True)
class Part:
    """A shape and what it is painted with.

    paint: "main" for the colours and the pattern of the caption, "accent" for one colour that differs from them, or a
    name in `MATERIALS`. along: the way a pattern runs, as in `vfusion3d.world.patterns.Paint`; parts painted "main"
    with the same `along` share one pattern.
    """

    shape: Shape
    paint: str = "main"
    along: str = ""
