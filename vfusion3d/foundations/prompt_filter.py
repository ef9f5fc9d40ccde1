"""The prompt filter: of all captions, those that describe a single object (section 3.2; the paper's Llama2-13B).

A folder or a hub name is a chat model that is asked with `prompt_filter.txt`. `stand-in`: no learned weights, rules
over the caption grammar of the procedural world (`caption_rules.py`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfusion3d.foundations.caption_rules import broken_rule, too_little_or_much
from vfusion3d.foundations.chat import Chat, chat
from vfusion3d.foundations.loading import role
from vfusion3d.runs.profiles import Profile

TEMPLATE = Path(__file__).with_name("prompt_filter.txt").read_text(encoding="utf-8").strip()
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
    """The template with this caption, which takes one line whatever is in it."""
    return TEMPLATE.replace("{caption}", " ".join(caption.split()))


def decide(caption: str, answer: str) -> Decision:
    """Read an answer: its first word has to be yes or no, in any case, with any punctuation around it."""
    first = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    return Decision(caption, bool(first) and first[1].lower() == "yes", answer, unclear=first is None)
