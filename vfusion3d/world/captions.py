"""The caption grammar: an object's description, and the way back.

"a tall striped red and white mug" = article, proportion, pattern, one or two colours, category. The way back reads more
than it writes: any order, plurals, a few synonyms, "a mug with white and red stripes".
"""

import difflib
import re
from pathlib import Path

import numpy as np

from vfusion3d.runs.reading import read_yaml
from vfusion3d.world.catalogue import CATEGORY_NAMES, COLOURS, PROPORTIONS, ObjectSpec, category
from vfusion3d.world.patterns import PATTERNS

CONTRAST = 140  # least distance in RGB between two colours of one object, where we choose
SYNONYMS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("synonyms.yaml"), dict[str, list[str]])
FILLERS = (
    frozenset({"a", "an", "the", "one", "with", "and", "in", "of", "on", "its", "it", "is", "has", "that", "which"})
    | {"body", "colour", "color", "coloured", "colored", "pattern", "patterned"}
    | {"picture", "photo", "image", "render", "object"}
)
PHRASES = {
    **{name: name for names in (CATEGORY_NAMES, COLOURS, PATTERNS, PROPORTIONS) for name in names if name},
    **{word: meaning for meaning, words in SYNONYMS.items() for word in words},
}


class CaptionError(ValueError):
    """A caption that describes no object of the procedural world; the message says why."""


def describe(spec: ObjectSpec) -> str:
    """An object's caption, such as "a tall striped red and white mug"; `make_object` reads it back."""
    pattern = "" if spec.pattern == "plain" else spec.pattern
    words = " ".join(word for word in (spec.proportion, pattern, " and ".join(spec.colours), spec.category) if word)
    return with_article(words)


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(name: str) -> str:
    """The regular plural of a noun: mugs, boxes, trophies."""
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def _fail(caption: str, what: str):
    known = f"categories: {', '.join(CATEGORY_NAMES)}"
    raise CaptionError(f"cannot read the caption {caption!r}: {what}. It takes one of the {known}")


def _singulars(word: str) -> list[str]:
    endings = (("ies", "y"), ("es", ""), ("s", ""), ("ves", "f"))
    return [word, *(word[: -len(end)] + new for end, new in endings if word.endswith(end))]


def _phrases(caption: str) -> list[tuple[str, str | None]]:
    """The caption in phrases, longest first, fillers left out: each with its meaning, or None where it has none."""
    words = re.findall(r"[^\W_]+", caption.lower().replace("-", " ").replace("'s", ""))
    phrases: list[tuple[str, str | None]] = []
    i = 0
    while i < len(words):
        for length in (3, 2, 1):
            *stem, last = words[i : i + length]
            found = [PHRASES[key] for end in _singulars(last) if (key := " ".join([*stem, end])) in PHRASES]
            if found and i + length <= len(words):
                phrases.append((" ".join([*stem, last]), found[0]))
                i += length
                break
        else:
            if words[i] not in FILLERS:
                phrases.append((words[i], None))
            i += 1
    return phrases


def meaning(caption: str) -> frozenset[str]:
    """What a caption says, whatever its order, fillers, plurals and synonyms; unknown words stand for themselves.

    "a mug with white and red stripes" means the same as "a striped red and white mug".
    """
    return frozenset(known or word for word, known in _phrases(caption)) - {"plain"}


def _read(caption: str) -> list[str]:
    """The meaning of each phrase of the caption, once each."""
    meanings = []
    for word, known in _phrases(caption):
        if known is None:
            near = difflib.get_close_matches(word, PHRASES, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            _fail(caption, f"the word {word!r} means nothing here{hint}")
        meanings.append(known)
    return list(dict.fromkeys(meanings))


def _one(caption: str, kind: str, found: list[str]) -> str | None:
    if len(found) > 1:
        _fail(caption, f"it names more than one {kind}: {', '.join(found)}")
    return found[0] if found else None


def contrasting(colour: str) -> list[str]:
    """The colours that stand out well against this one."""
    rgb = np.array(COLOURS[colour])
    return [name for name, other in COLOURS.items() if np.linalg.norm(rgb - other) > CONTRAST]


def make_object(caption: str, seed: int) -> ObjectSpec:
    """An object that fits the caption; the seed decides everything that the caption leaves open.

    `describe(make_object(describe(spec), seed)) == describe(spec)` for every spec. Raises ValueError, with the word or
    the kind of word at fault and the list of categories, for a caption that cannot be read.
    """
    meanings = _read(caption)
    name = _one(caption, "category", [word for word in meanings if word in CATEGORY_NAMES])
    pattern = _one(caption, "pattern", [word for word in meanings if word in PATTERNS])
    proportion = _one(caption, "proportion", [word for word in meanings if word in PROPORTIONS]) or ""
    colours = [word for word in meanings if word in COLOURS]
    if name is None:
        _fail(caption, "it names no category")
    if proportion and proportion not in category(name).proportions:
        words = ", ".join(category(name).proportions)
        _fail(caption, f"a {name} cannot be {proportion!r}, only {words}")
    if len(colours) > (1 if pattern == "plain" else 2):
        most = "one colour for a plain object" if pattern == "plain" else "two colours"
        _fail(caption, f"it names {len(colours)} colours ({', '.join(colours)}), and takes {most} at most")

    rng = np.random.default_rng(seed)
    if pattern is None:
        pattern = str(rng.choice(PATTERNS[1:])) if len(colours) == 2 else "plain"
    if not colours:
        colours = [str(rng.choice(list(COLOURS)))]
    if pattern != "plain" and len(colours) == 1:
        colours.append(str(rng.choice(contrasting(colours[0]))))
    return ObjectSpec(name, tuple(colours), pattern, proportion, int(seed))
