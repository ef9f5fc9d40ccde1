"""The one list of the procedural world: its categories, colours and proportions, and what describes one object.

Random objects are of 28 categories: half of them are common, half uncommon, and "3D data" holds the common ones only
(see the README on stand-ins). A category that is added is understood at once, in captions as in pictures, and drawn
where it is asked for by name: no test set, prompt or object of a seed changes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vfusion3d.world import common_objects as common
from vfusion3d.world import uncommon_objects as uncommon
from vfusion3d.world.parts import Part, Proportions
from vfusion3d.world.patterns import PATTERNS, RGB

COLOURS: dict[str, RGB] = {
    "red": (206, 34, 36),
    "orange": (242, 130, 24),
    "yellow": (246, 212, 44),
    "green": (44, 146, 62),
    "turquoise": (54, 196, 190),
    "blue": (38, 84, 204),
    "purple": (124, 48, 160),
    "pink": (246, 142, 184),
    "brown": (118, 70, 36),
    "black": (34, 34, 38),
    "grey": (134, 138, 144),
    "white": (232, 232, 230),
}

PROPORTIONS: dict[str, Proportions] = {
    "": Proportions(),
    "tall": Proportions(height=1.35),
    "short": Proportions(height=0.7),
    "wide": Proportions(width=1.32),
    "slim": Proportions(width=0.68),
    "long": Proportions(length=1.4),
}


@dataclass(frozen=True)
class Category:
    """A kind of object. proportions: the two words of `PROPORTIONS` that make sense for it."""

    name: str
    build: Callable[[Proportions, np.random.Generator], list[Part]]
    proportions: tuple[str, str] = ("tall", "short")


@dataclass(frozen=True)
class ObjectSpec:
    """Everything that makes one object; `dataclasses.asdict` of it is plain JSON.

    colours: one name of `COLOURS` for the plain pattern, two for the others. proportion: "" or a word that the category
    lists. seed: decides the rest, such as optional parts and the colours of details.
    """

    category: str
    colours: tuple[str, ...]
    pattern: str = "plain"
    proportion: str = ""
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "colours", tuple(self.colours))  # JSON gives a list
        kind = category(self.category)
        if unknown := [name for name in self.colours if name not in COLOURS]:
            raise ValueError(f"unknown colour {unknown[0]!r}; the colours are: {', '.join(COLOURS)}")
        if self.pattern not in PATTERNS:
            raise ValueError(f"unknown pattern {self.pattern!r}; the patterns are: {', '.join(PATTERNS)}")
        wanted = 1 if self.pattern == "plain" else 2
        if len(self.colours) != wanted or len(set(self.colours)) != wanted:
            what = "one colour" if wanted == 1 else "two different colours"
            raise ValueError(
                f"a {self.pattern} {self.category} needs {what}, got {' and '.join(self.colours) or 'none'}"
            )
        if self.proportion and self.proportion not in kind.proportions:
            raise ValueError(
                f"a {self.category} cannot be {self.proportion!r}; it can be: {', '.join(kind.proportions)}, or neither"
            )


CATEGORIES: tuple[Category, ...] = (
    Category("mug", common.mug),
    Category("chair", common.chair, ("tall", "wide")),
    Category("table", common.table),
    Category("lamp", common.lamp, ("tall", "wide")),
    Category("car", common.car, ("long", "tall")),
    Category("house", common.house, ("tall", "wide")),
    Category("tree", common.tree, ("tall", "wide")),
    Category("bottle", common.bottle, ("slim", "wide")),
    Category("hat", common.hat, ("tall", "wide")),
    Category("book", common.book, ("tall", "wide")),
    Category("boat", common.boat, ("long", "tall")),
    Category("teapot", common.teapot, ("tall", "short")),
    Category("sofa", common.sofa, ("tall", "wide")),
    Category("airplane", common.airplane, ("long", "wide")),
    Category("rocket", uncommon.rocket, ("tall", "wide")),
    Category("mushroom", uncommon.mushroom, ("tall", "wide")),
    Category("snowman", uncommon.snowman, ("tall", "wide")),
    Category("windmill", uncommon.windmill),
    Category("castle tower", uncommon.castle_tower, ("tall", "wide")),
    Category("cactus", uncommon.cactus),
    Category("robot", uncommon.robot, ("tall", "wide")),
    Category("guitar", uncommon.guitar, ("tall", "wide")),
    Category("anchor", uncommon.anchor, ("tall", "wide")),
    Category("hot air balloon", uncommon.hot_air_balloon, ("tall", "wide")),
    Category("umbrella", uncommon.umbrella, ("tall", "wide")),
    Category("ice cream cone", uncommon.ice_cream_cone),
    Category("rubber duck", uncommon.rubber_duck, ("tall", "long")),
    Category("trophy", uncommon.trophy, ("tall", "wide")),
)
CATEGORY_NAMES = tuple(kind.name for kind in CATEGORIES)

# what is drawn at random; a seed means a place in these lists, so they stay as they are when a category is added
COMMON = (
    *("mug", "chair", "table", "lamp", "car", "house", "tree"),
    *("bottle", "hat", "book", "boat", "teapot", "sofa", "airplane"),
)
UNCOMMON = (
    *("rocket", "mushroom", "snowman", "windmill", "castle tower", "cactus", "robot"),
    *("guitar", "anchor", "hot air balloon", "umbrella", "ice cream cone", "rubber duck", "trophy"),
)
DRAWN = COMMON + UNCOMMON


def category(name: str) -> Category:
    """The category of this name; ValueError lists them all if there is none."""
    for kind in CATEGORIES:
        if kind.name == name:
            return kind
    raise ValueError(f"unknown category {name!r}; the categories are: {', '.join(CATEGORY_NAMES)}")
