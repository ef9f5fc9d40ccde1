"""The prompt filter: of all captions, those that describe a single object (section 3.2; the paper's Llama2-13B).

A folder or a hub name is a chat model that is asked with `TEMPLATE`. `stand-in`: no learned weights, rules over the
caption grammar of the procedural world (`caption_rules.py`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vfusion3d.foundations.caption_rules import broken_rule, too_little_or_much
from vfusion3d.foundations.chat import Chat, chat
from vfusion3d.foundations.loading import role
from vfusion3d.runs.profiles import Profile

EXAMPLES = (  # (caption, whether it describes a single object), shown to the model in this order
    ("a wooden rocking chair with a red cushion", True),
    ("Two kittens are sleeping in a basket", False),
    ("vintage brass telescope on a tripod, 3d model", True),
    ("Aerial view of the harbour at sunset", False),
    ("a blue and white porcelain teapot", True),
    ("My sister and her husband at the beach", False),
    ("an astronaut riding a horse", True),
    ("BUY NOW!! 50% off all shoes, free shipping", False),
    ("a corgi wearing a tiny top hat", True),
    ("a table set with plates, glasses and candles", False),
    ("DSC_0042.jpg", False),
    ("a bowl of ramen", True),
)
TEMPLATE = """\
You choose captions for a collection of 3D objects. Keep a caption if it describes one single object, animal or \
character that could be shown alone on an empty background. Drop it if it describes several separate objects, a scene, \
a place, an event or real persons, or if it is no description at all.
There is one caption a line. Answer each with yes (keep) or no (drop), and with nothing else.

{examples}
Caption: {caption}
Answer:"""
LONGEST_ANSWER = 4  # tokens


@dataclass(frozen=True)
class Decision:
    """What became of a caption. reason: the rule that it breaks, or what the model answered; "" where no rule did.

    unclear: the model answered neither yes nor no, which counts as no. Of a list of decisions,
    `sum(decision.unclear for decision in decisions)` is how often that happened.
    """

    caption: str
    kept: bool
    reason: str
    unclear: bool = False


PromptFilter = Callable[[Sequence[str]], list[Decision]]


@role("prompt_filter")
def prompt_filter(profile: Profile) -> PromptFilter:
    """The profile's prompt filter: a function from captions to one `Decision` each, in their order.

    Captions that are empty or have more than 200 characters are dropped without asking. Raises ModelUnavailable where
    a chat model cannot be had.
    """
    if profile.foundations.prompt_filter == "stand-in":
        return lambda captions: [Decision(c, not (rule := broken_rule(c)), rule) for c in captions]
    model = chat(profile)
    return lambda captions: ask(model, captions)


def ask(model: Chat, captions: Sequence[str]) -> list[Decision]:
    """Let a chat model decide, with `TEMPLATE`."""
    rules = [too_little_or_much(caption) for caption in captions]
    questions = [question(caption) for caption, rule in zip(captions, rules, strict=True) if not rule]
    answers = iter(model.answers(questions, LONGEST_ANSWER, progress="filtering prompts"))
    return [
        Decision(caption, False, rule) if rule else decide(caption, next(answers))
        for caption, rule in zip(captions, rules, strict=True)
    ]


def question(caption: str) -> str:
    """The template with its examples and this caption, which takes one line whatever is in it."""
    examples = "\n".join(f"Caption: {text}\nAnswer: {'yes' if kept else 'no'}" for text, kept in EXAMPLES)
    return TEMPLATE.format(examples=examples, caption=" ".join(caption.split()))


def decide(caption: str, answer: str) -> Decision:
    """Read an answer: its first word has to be yes or no, in any case, with any punctuation around it."""
    first = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    return Decision(caption, bool(first) and first[1].lower() == "yes", answer, unclear=first is None)
