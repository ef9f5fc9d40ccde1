"""The prompt filter's stand-in: rules for what describes one single object in the words of the procedural world."""

import re

from vfusion3d.world.captions import PHRASES, make_object, plural
from vfusion3d.world.catalogue import CATEGORY_NAMES

OVERLONG = 200  # characters
IRREGULAR = {"cacti", "snowmen"}  # plurals that the grammar reads as well


def _any(words: str) -> re.Pattern:
    return re.compile(rf"\b(?:{'|'.join(words.split(', '))})\b", re.IGNORECASE)


_OBJECTS = sorted((word for word, meaning in PHRASES.items() if meaning in CATEGORY_NAMES), key=len, reverse=True)
_ONE_OBJECT = _any(", ".join(word for word in _OBJECTS if word not in IRREGULAR))
RULES = (  # what is wrong with a caption, and how it shows; the first that holds is the reason given
    ("markup", re.compile(r"[<>{}\[\]|\\=#@_*~^`]|//|www\.|&\w+;|\.(?:jpe?g|png|gif|html?|com)\b", re.IGNORECASE)),
    ("not in English", re.compile(r"[^\W\d_a-zA-Z]")),  # a letter outside of its alphabet
    (
        "not in English",
        _any("der, das, ein, eine, einer, und, mit, le, les, un, une, et, avec, el, los, una, con, di, het, een, och"),
    ),
    (
        "people",
        _any(
            "person, persons, people, man, men, woman, women, boy, boys, girl, girls, child, children, kid, kids, "
            "baby, crowd, family, couple, lady, guy, he, she, they, his, her, their, my, our, i, we, you, someone"
        ),
    ),
    (
        "several objects",
        re.compile(
            r"\b(?:two|three|four|five|six|seven|eight|nine|ten|dozen|[2-9]|\d{2,}|several|many|some|few|multiple|"
            r"various|assorted|pair|pairs|set|row|group|stack|pile|collection|bunch|both|another)\b(?![ -]tone)",
            re.IGNORECASE,
        ),
    ),
    ("several objects", _any(", ".join({*map(plural, _OBJECTS), *IRREGULAR}))),
    ("several objects", re.compile(rf"{_ONE_OBJECT.pattern}.*{_ONE_OBJECT.pattern}", re.IGNORECASE | re.DOTALL)),
    (
        "a scene",
        _any(
            "scene, view, landscape, background, beach, sea, ocean, lake, river, forest, garden, park, field, meadow, "
            "mountain, hill, sky, street, road, city, town, village, kitchen, room, office, floor, shelf, desk, "
            "window, wall, grass, snow, sunset, sunrise, night, next to, beside, behind, between, near, "
            "under, in front of, at"
        ),
    ),
)


def broken_rule(caption: str) -> str:
    """Why a caption is dropped, or "" where it describes a single object that `make_object` can build."""
    if trouble := too_little_or_much(caption):
        return trouble
    for trouble, sign in RULES:
        if found := sign.search(caption):
            return f"{trouble} ({' '.join(found[0].split())})"
    try:
        make_object(caption, seed=0)
    except ValueError as error:
        return f"not a caption of this world ({error})"
    return ""


def too_little_or_much(caption: str) -> str:
    """Why a caption need not be read at all, or ""."""
    if not re.search(r"\w", caption):
        return "empty"
    return overlong(caption) if len(caption) > OVERLONG else ""


def overlong(caption: str) -> str:
    """What is said of a caption that is too long."""
    return f"overlong ({len(caption):,} characters)"
