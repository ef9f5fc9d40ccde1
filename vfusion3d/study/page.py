"""The user study as a page in a browser: `study_page.html`, and the small server behind it, which is tornado's.

    GET  /?rater=anna                       the page; without a name it asks for one
    GET  /question?rater=anna&number=12     a question as JSON; without a number the first that is not answered
    GET  /left?rater=anna&id=..., /right, /picture      what it shows; no address says which method is which
    POST /answer  {"rater": "anna", "id": "...", "choice": "left"}      what comes next, as /question answers

What holds for every page of this machine (who may ask, the token, errors) is in `runs/local_server.py`.
"""

import json
import re
from pathlib import Path
from typing import Any

from tornado.web import StaticFileHandler

from vfusion3d.runs.claim import short_name
from vfusion3d.runs.local_server import PATIENCE, Handler, LocalServer, PageError, printable, read_page, script_hash
from vfusion3d.study.answers import (
    OURS,
    Comparison,
    Item,
    StudyError,
    add_answer,
    checked_rater,
    comparisons,
    read_answers,
)

PAGE = read_page(Path(__file__).with_name("study_page.html"))
LONGEST = 10_000  # bytes of an answer
ASKED = {
    "quality": ("Which of the two objects looks better?", "Judge shape and surface from all sides, as it turns."),
    "faithfulness": (
        "Which of the two objects is truer to the picture?",
        "Both were made from this one picture: compare shape, colours and details with it.",
    ),
}


class Study:
    """What is asked, and what was answered: the state behind the page, for any number of raters.

    Raises StudyError where there is nothing to ask, and where `folder` holds answers that are none.
    """

    def __init__(self, items: list[Item], folder: str | Path, seed: int = 0):
        self.items = items
        self.folder = Path(folder)
        self.seed = seed
        self.order: dict[str, dict[str, Comparison]] = {}
        read_answers(self.folder)
        if not comparisons(items, "anyone", seed):
            raise StudyError(f"the study has no questions: there are {len(items)} items, and no method but {OURS}")

    def asked(self, rater: str) -> dict[str, Comparison]:
        """The rater's questions in their order, by an id that does not tell what they compare."""
        if rater not in self.order:
            asked = comparisons(self.items, checked_rater(rater), self.seed)
            self.order[rater] = {short_name("/".join(c.same)): c for c in asked}
        return self.order[rater]

    def answered(self, rater: str) -> list[bool]:
        """Which of the rater's questions have an answer."""
        answers = read_answers(self.folder)
        mine = answers[answers["rater"] == rater]
        done = set(zip(mine["task"], mine["key"], mine["baseline"], mine["question"]))
        return [comparison.same in done for comparison in self.asked(rater).values()]

    def question(self, rater: str, number: int | None = None) -> dict[str, Any]:
        """Question `number` (from 0), or the first without an answer; {"done": True} where there is none left."""
        asked = self.asked(rater)
        answered = self.answered(rater)
        known = {"rater": rater, "total": len(asked), "answered": sum(answered)}
        if number is None:
            number = answered.index(False) if not all(answered) else len(asked)
            if number == len(asked):
                return known | {"done": True}
        elif not 0 <= number < len(asked):
            raise StudyError(f"there are questions 0 to {len(asked) - 1}, and no {number}")
        name, comparison = list(asked.items())[number]
        title, hint = ASKED[comparison.question]
        picture = comparison.question == "faithfulness"
        return known | {"number": number, "id": name, "title": title, "hint": hint, "picture": picture}

    def answer(self, rater: str, name: str, choice: str) -> dict[str, Any]:
        """Store an answer; returns the question that comes next."""
        add_answer(self.folder, rater, self.comparison(rater, name), choice)
        return self.question(rater)

    def comparison(self, rater: str, name: str) -> Comparison:
        """The rater's question with this id. Raises StudyError where there is none."""
        if name not in self.asked(rater):
            raise StudyError(f"there is no question {name[:40]!r}")
        return self.asked(rater)[name]


class _Handler(Handler):
    """What all answers of the study have in common: its state is `known`."""

    POLICY = (
        "connect-src 'self'; img-src 'self'; media-src blob:; style-src 'unsafe-inline'; "
        f"script-src {script_hash(PAGE)}"
    )

    @property
    def rater(self) -> str:
        return checked_rater(self.get_query_argument("rater", ""))


class _Page(_Handler):
    def get(self) -> None:
        rater = self.get_query_argument("rater", "")
        if not self.token_was_hidden(f"/?rater={checked_rater(rater)}" if rater else "/"):
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.write(PAGE)

    head = get


class _Question(_Handler):
    def get(self) -> None:
        number = self.get_query_argument("number", None)
        if number is not None and not re.fullmatch(r"[0-9]{1,9}", number):
            raise StudyError(f"number={printable(number)} is no number")
        self.write(self.known.question(self.rater, None if number is None else int(number)))

    head = get


class _Answer(_Handler):
    def post(self) -> None:
        if len(self.request.body) > LONGEST:
            raise StudyError("an answer is a short JSON text")
        try:
            sent = json.loads(self.request.body)
            rater, name, choice = (sent[key] for key in ("rater", "id", "choice"))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StudyError('an answer is {"rater": ..., "id": ..., "choice": "left" or "right"}') from error
        if not all(isinstance(text, str) for text in (rater, name, choice)):
            raise StudyError("rater, id and choice are texts")
        self.write(self.known.answer(checked_rater(rater), name, choice))


class _Shown(_Handler, StaticFileHandler):
    """A picture or a video: tornado's handler of files, which finds the one that the rater's question shows."""

    def initialize(self, **guard) -> None:
        _Handler.initialize(self, **guard)
        StaticFileHandler.initialize(self, path="/")

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        comparison = self.known.comparison(self.rater, self.get_query_argument("id", ""))
        videos = {"left": comparison.left, "right": comparison.right}
        item = comparison.item
        file = (item.picture if self.path == "picture" else item.videos[videos[self.path]]).resolve()
        return super().validate_absolute_path(str(file.parent), str(file))

    def compute_etag(self) -> None:
        """None: nothing is kept (`Cache-Control`), and tornado would read the file twice for it."""


def study_server(study: Study, port: int = 0, host: str = "127.0.0.1") -> LocalServer:
    """A server of the study, not yet running: see `LocalServer`. Raises StudyError where it cannot be served there."""
    routes = [("/", _Page), ("/question", _Question), ("/answer", _Answer), ("/(left|right|picture)", _Shown)]
    try:
        return LocalServer("study", routes, study, port, host, PATIENCE)
    except PageError as error:
        raise StudyError(str(error)) from error
