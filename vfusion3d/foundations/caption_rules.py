"""The prompt filter's stand-in: rules for what describes one single object in the words of the procedural world."""

import re
from collections.abc import Iterable
from pathlib import Path

from vfusion3d.runs.reading import read_yaml
from vfusion3d.world.captions import PHRASES, make_object, plural
from vfusion3d.world.catalogue import CATEGORY_NAMES

OVERLONG = 200  # characters
IRREGULAR = {"cacti", "snowmen"}  # plurals that the grammar reads as well
WORDS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("caption_rules.yaml"), dict[str, list[str]])


def _any(words: Iterable[str]) -> re.Pattern:
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


_OBJECTS = sorted((word for word, meaning in PHRASES.items() if meaning in CATEGORY_NAMES), key=len, reverse=True)
_ONE_OBJECT = _any(word for word in _OBJECTS if word not in IRREGULAR)
RULES = (  # what is wrong with a caption, and how it shows; the first that holds is the reason given
    ("markup", re.compile(r"[<>{}\[\]|\\=#@_*~^`]|//|www\.|&\w+;|\.(?:jpe?g|png|gif|html?|com)\b", re.IGNORECASE)),
    ("not in English", re.compile(r"[^\W\d_a-zA-Z]")),  # a letter outside of its alphabet
    ("not in English", _any(WORDS["not in English"])),
    ("people", _any(WORDS["people"])),
    ("several objects", re.compile(rf"{_any(WORDS['several objects']).pattern}(?![ -]tone)", re.IGNORECASE)),
    ("several objects", _any({*map(plural, _OBJECTS), *IRREGULAR})),
    ("several objects", re.compile(rf"{_ONE_OBJECT.pattern}.*{_ONE_OBJECT.pattern}", re.IGNORECASE | re.DOTALL)),
    ("a scene", _any(WORDS["a scene"])),
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
