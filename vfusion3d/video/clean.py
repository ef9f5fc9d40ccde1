"""What is done to a caption before anyone judges it, and when two captions count as the same."""

import html
import re
import unicodedata
from dataclasses import dataclass

from vfusion3d.foundations.caption_rules import OVERLONG, overlong

HOPELESS = 10 * OVERLONG  # characters: longer ones are not even looked through
LEAST_LETTERS = 3
ARTICLES = frozenset(("a", "an", "the"))
_SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!--.*?-->", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S*|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]+", re.IGNORECASE)
_HASHTAG = re.compile(r"(?<!\w)[#@]\w+")
_SITE = re.compile(r"\s[|»].*$")  # "a red mug | some shop"
_FILE = re.compile(r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|mp4|html?|php|pdf)", re.IGNORECASE)
_NO_TEXT = frozenset(("Cf", "Co", "Cs", "So", "Sk"))  # categories of Unicode
_EDGES = " \t\"'“”‘’«»,;:-–—*~_/"


@dataclass(frozen=True)
class Cleaned:
    """A cleaned caption. trouble: why it cannot be used, or ""."""

    caption: str
    trouble: str = ""


def clean(caption: str) -> Cleaned:
    """The plain text of a caption from the web.

    Unicode becomes NFKC without invisible characters and pictograms; tags, entities, addresses, hashtags and what
    follows a bar are removed, white space is collapsed, and what is all in capitals becomes small. A caption that is
    then empty, too short, too long, a file name, or has characters that could not be read is in trouble.
    """
    if len(caption) > HOPELESS:
        return Cleaned(caption[:OVERLONG], overlong(caption))
    text = _without_tags(html.unescape(_without_tags(caption)))  # again, for those that were written as entities
    text = "".join(_plain(character) for character in text)
    text = unicodedata.normalize("NFKC", text)
    text = _SITE.sub("", _HASHTAG.sub(" ", _ADDRESS.sub(" ", text)))
    text = " ".join(text.split()).strip(_EDGES)
    if text.isupper():
        text = text.lower()
    if "\ufffd" in text:
        return Cleaned(text[:OVERLONG], "unreadable characters")
    if len(text) > OVERLONG:
        return Cleaned(text[:OVERLONG], overlong(text))
    if _FILE.fullmatch(text):
        return Cleaned(text, "a file name")
    if not any(map(str.isalpha, text)):
        return Cleaned(text, "nothing left" if any(map(str.isalpha, caption)) else "empty")
    if sum(map(str.isalpha, text)) < LEAST_LETTERS:
        return Cleaned(text, "too few letters")
    return Cleaned(text)


def same_caption_key(caption: str) -> str:
    """Captions with the same key count as the same: case, white space, punctuation and articles make no difference."""
    words = re.findall(r"[^\W_]+", caption.casefold())
    return " ".join(word for word in words if word not in ARTICLES)


def _without_tags(text: str) -> str:
    return _TAG.sub(" ", _SCRIPT.sub(" ", text))


def _plain(character: str) -> str:
    """The character; nothing for an invisible one or a pictogram, a space for a control character."""
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    variant = "\ufe00" <= character <= "\ufe0f"  # says how the pictogram before it looks
    unreadable = character == "\ufffd"
    return "" if variant or (category in _NO_TEXT and not unreadable) else character
