"""The bundled corpus: a stand-in for captions from the web, of the miniature world, with the junk that real ones have.

    python -m vfusion3d.world.web_captions

writes `WEB_CAPTIONS` again, the same lines. A kind of line says how it was made, not whether it should be kept:
that is for a reader to judge (`LABELS`).
"""

import dataclasses
import gzip
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.reading import read_table, read_yaml
from vfusion3d.world.captions import describe, plural, with_article
from vfusion3d.world.catalogue import COLOURS, DRAWN
from vfusion3d.world.objects import sample_object

WEB_CAPTIONS = Path(__file__).parent / "web_captions.txt.gz"
LABELS = Path(__file__).parent / "labelled_captions.csv"  # 300 lines with the judgement of a reader
LINES = 10_000
SEED = 11
PHRASES: dict[str, list[str]] = read_yaml(Path(__file__).with_name("web_phrases.yaml"), dict[str, list[str]])


def labelled_captions() -> pd.DataFrame:
    """The captions of `LABELS`: columns caption (as it is in the corpus), label ("keep" or "drop"), note."""
    return read_table(LABELS, dict.fromkeys(("caption", "label", "note"), str))  # "null" and "" are captions too


def web_captions(lines: int = LINES, seed: int = SEED) -> list[tuple[str, str]]:
    """Lines of the corpus, each with its kind (a key of `KINDS`). One line holds one caption, whatever is in it."""
    rng = np.random.default_rng(seed)
    shares = np.array([share for share, _ in KINDS.values()])
    made: list[tuple[str, str]] = []
    for _ in range(lines):
        kind = str(rng.choice(list(KINDS), p=shares / shares.sum()))
        before = made[rng.integers(len(made))][1] if made else ""
        made.append((kind, KINDS[kind][1](rng, before)))
    return made


def caption_of_one_object(rng: np.random.Generator, before: str = "") -> str:
    """A caption of one object, in one of the ways in which people put it."""
    spec = sample_object(rng)
    said = rng.choice(["all", "plain", "name", "with", "bare"], p=[0.62, 0.12, 0.06, 0.08, 0.12])
    if said == "plain":
        spec = dataclasses.replace(spec, colours=spec.colours[:1], pattern="plain", proportion="")
    if said == "name":
        return with_article(spec.category)
    caption = describe(spec)
    words = {"striped": "stripes", "checked": "checks", "dotted": "dots"}
    if said == "with" and spec.pattern in words:
        caption = f"{with_article(spec.category)} with {' and '.join(spec.colours)} {words[spec.pattern]}"
    if said == "bare":
        caption = caption.split(" ", 1)[1]
    if rng.random() < 0.12:
        caption = caption.replace("grey", "gray").replace("mug", "cup").replace("sofa", "couch")
    if rng.random() < 0.3:
        caption = str(rng.choice(PHRASES["openings"], p=[0.35, 0.25, 0.2, 0.1, 0.1])) + caption
    return caption[0].upper() + caption[1:] if rng.random() < 0.2 else caption


def _category(rng: np.random.Generator) -> str:
    return DRAWN[rng.integers(len(DRAWN))]


def _colour(rng: np.random.Generator) -> str:
    return list(COLOURS)[rng.integers(len(COLOURS))]


def _plural(name: str) -> str:
    return {"cactus": "cacti", "snowman": "snowmen"}.get(name) or plural(name)


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[rng.integers(len(choices))]


def _phrase(rng: np.random.Generator, kind: str) -> str:
    return _pick(rng, *PHRASES[kind])


def _several(rng: np.random.Generator, before: str) -> str:
    first, second = _category(rng), _category(rng)
    return _pick(
        rng,
        f"{_pick(rng, 'two', 'three', 'five', 'a dozen', 'several', 'some', '12')} {_colour(rng)} {_plural(first)}",
        f"{describe(sample_object(rng))} and {describe(sample_object(rng))}",
        f"{with_article(first)} on a {second}",
        f"{_plural(first)} and {_plural(second)} for sale",
        f"{_colour(rng)} {_plural(first)}",
        f"set of {rng.integers(2, 9)} {_plural(first)}, {_colour(rng)}",
        f"{with_article(first)}, {with_article(second)} and {with_article(_category(rng))}",
        f"a collection of old {_plural(first)}",
        f"{with_article(first)} beside another {first}",
    )


def _scene(rng: np.random.Generator, before: str) -> str:
    place = _phrase(rng, "places")
    return _pick(
        rng,
        f"{caption_of_one_object(rng)} {place}",
        f"{_plural(_category(rng))} {place}",
        _phrase(rng, "views"),
        _phrase(rng, "views"),
    )


def _people(rng: np.random.Generator, before: str) -> str:
    who = _phrase(rng, "people")
    does = _phrase(rng, "deeds")
    what = with_article(_category(rng))
    return _pick(
        rng, f"{who} {does} {what}", f"{who} {_phrase(rng, 'places')}", f"{who} with {caption_of_one_object(rng)}"
    )


def _shop(rng: np.random.Generator, before: str) -> str:
    thing = _category(rng)
    price = f"{rng.integers(5, 90)}.99"
    return _pick(
        rng,
        f"SALE!! {rng.integers(1, 9)}0% off all {_plural(thing)} this weekend",
        f"{describe(sample_object(rng)).split(' ', 1)[1].title()} | {_phrase(rng, 'shops')}",
        f"{_colour(rng).title()} {thing.title()} - ${price} - {_phrase(rng, 'shops')}",
        f"Vintage {thing} for sale, good condition, pick-up only",
        f"Best {_plural(thing)} of {rng.integers(2005, 2024)} reviewed",
    )


def _markup(rng: np.random.Generator, before: str) -> str:
    caption = caption_of_one_object(rng)
    alt = _category(rng)
    return _pick(
        rng,
        f"<p>{caption}</p>",
        f'<img src="/img/{rng.integers(10**6)}.jpg" alt="{caption}"/>',
        f"&lt;b&gt;{caption}&lt;/b&gt;",
        f"![{alt}](/static/{alt.replace(' ', '-')}.png)",
        f'<div class="caption"><a href="#top">{caption}</a>&nbsp;</div>',
        f"[caption id=attachment_{rng.integers(999)}] {caption} [/caption]",
        f"<script>show('{alt}')</script>",
        f"{caption}<br><br>{caption_of_one_object(rng)}",
        f"{{{{ product.title }}}} - {alt}",
    )


def _address(rng: np.random.Generator, before: str) -> str:
    thing = _category(rng).replace(" ", "-")
    link = _pick(rng, f"https://www.example.org/{thing}/{rng.integers(9999)}", f"www.{thing}-world.example")
    return _pick(
        rng,
        link,
        f"{caption_of_one_object(rng)} {link}",
        f"{link} {caption_of_one_object(rng)}",
        f"contact: info@{thing}.example",
    )


def _hashtags(rng: np.random.Generator, before: str) -> str:
    tags = " ".join(f"#{_pick(rng, 'love', 'design', 'instagood', 'art', _colour(rng))}" for _ in range(3))
    return _pick(
        rng,
        f"{caption_of_one_object(rng)} {tags}",
        f"{caption_of_one_object(rng)} 😍✨ {tags}",
        tags,
        f"{_scene(rng, '')} {tags}",
        f"😍😍 {caption_of_one_object(rng)}",
    )


def _camera(rng: np.random.Generator, before: str) -> str:
    number = rng.integers(1000, 9999)
    return _pick(
        rng,
        f"IMG_{number}.JPG",
        f"DSC{number}",
        f"{_category(rng).replace(' ', '_')}_{number}.png",
        f"Canon EOS 5D, f/{rng.integers(2, 11)}, 1/{rng.integers(30, 900)} s, ISO {100 * rng.integers(1, 16)}",
        f"{caption_of_one_object(rng)} (f/2.8, 50 mm, ISO 400)",
        f"Screenshot 20{rng.integers(10, 24)}-0{rng.integers(1, 9)}-14 at 10.22.{rng.integers(10, 60)}",
    )


def _again(rng: np.random.Generator, before: str) -> str:
    """An earlier line once more, as copies on the web differ."""
    bare = before.split(" ", 1)[-1] if before.lower().startswith(("a ", "an ")) else f"the {before}"
    return _pick(
        rng, before, before.upper(), f"  {before} ", f"{before}.", bare, before.replace(" ", "  "), f'"{before}"'
    )


def _typo(rng: np.random.Generator, before: str) -> str:
    caption = caption_of_one_object(rng)
    place = int(rng.integers(2, len(caption) - 1))
    swapped = caption[: place - 1] + caption[place] + caption[place - 1] + caption[place + 1 :]
    return _pick(rng, swapped, caption[:place] + caption[place + 1 :], caption[:place] + caption[place - 1 :])


def _odd(rng: np.random.Generator, before: str) -> str:
    first, second = _category(rng), _category(rng)
    colour, other = _colour(rng), _colour(rng)
    return _phrase(rng, "odd").format(a=first, b=second, c=colour, d=other)


def _unreadable(rng: np.random.Generator, before: str) -> str:
    caption = caption_of_one_object(rng)
    return _pick(
        rng, "", "   ", "...", "-", "\u200b", "?!", caption.replace("a", "\ufffd"), caption[: len(caption) // 2]
    )


def _overlong(rng: np.random.Generator, before: str) -> str:
    length = 10_000 if rng.random() < 0.2 else int(rng.integers(250, 1500))
    words = [
        f"{caption_of_one_object(rng)}, {_pick(rng, 'new', 'cheap', 'online', '4k', 'wallpaper')}" for _ in range(12)
    ]
    return ((", ".join(words) + ", ") * (length // 100))[:length]


KINDS: dict[str, tuple[float, Callable[[np.random.Generator, str], str]]] = {  # how often, and how it is made
    "one object": (0.44, caption_of_one_object),
    "several": (0.09, _several),
    "scene": (0.09, _scene),
    "people": (0.06, _people),
    "copy": (0.06, _again),
    "odd": (0.05, _odd),
    "shop": (0.04, _shop),
    "markup": (0.035, _markup),
    "hashtags": (0.03, _hashtags),
    "typo": (0.025, _typo),
    "vague": (0.02, lambda rng, before: _phrase(rng, "vague")),
    "language": (0.02, lambda rng, before: _phrase(rng, "other languages")),
    "camera": (0.02, _camera),
    "address": (0.015, _address),
    "capitals": (0.015, lambda rng, before: caption_of_one_object(rng).upper()),
    "unreadable": (0.015, _unreadable),
    "overlong": (0.004, _overlong),
}


def write_web_captions() -> None:
    """Write the bundled corpus: the same lines each time."""
    text = "".join(f"{caption}\n" for _, caption in web_captions())
    write_whole(WEB_CAPTIONS, partial(Path.write_bytes, data=gzip.compress(text.encode(), mtime=0)))


if __name__ == "__main__":
    sys.exit(write_web_captions())
