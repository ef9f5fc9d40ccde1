"""The user study as a page in a browser: `study_page.html`, and the small server of Python's library behind it.

    GET  /?rater=anna                       the page; without a name it asks for one
    GET  /question?rater=anna&number=12     a question as JSON; without a number the first that is not answered
    GET  /left?rater=anna&id=..., /right, /picture      what it shows; no address says which method is which
    POST /answer  {"rater": "anna", "id": "...", "choice": "left"}      what comes next, as /question answers

A request that makes no sense is answered with status 400 or 404 and {"error": ...}, and changes nothing.
"""

import json
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from vfusion3d.runs.claim import short_name
from vfusion3d.study.answers import Comparison, Item, StudyError, add_answer, checked_rater, comparisons, read_answers

PAGE = Path(__file__).with_name("study_page.html")
LONGEST = 10_000  # bytes of an answer
ASKED = {
    "quality": ("Which of the two objects looks better?", "Judge shape and surface from all sides, as it turns."),
    "faithfulness": (
        "Which of the two objects is truer to the picture?",
        "Both were made from this one picture: compare shape, colours and details with it.",
    ),
}


class Study:
    """What is asked, and what was answered: the state behind the page, for any number of raters at once."""

    def __init__(self, items: list[Item], folder: str | Path, seed: int = 0):
        self.items = items
        self.folder = Path(folder)
        self.seed = seed
        self.lock = Lock()
        self.order: dict[str, dict[str, Comparison]] = {}

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


def study_server(study: Study, port: int = 0, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """A server of the study, not yet running: call `serve_forever`. port 0 takes any free one (`server_port`)."""
    try:
        return ThreadingHTTPServer((host, port), type("Handler", (_Handler,), {"study": study}))
    except (OSError, OverflowError) as error:
        raise StudyError(f"nothing can be served at {host}:{port} ({error}): choose another port") from error


class _Handler(BaseHTTPRequestHandler):
    study: Study

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> tuple[str, bytes]:
        path = urlsplit(self.path).path
        if path == "/":
            return "text/html; charset=utf-8", PAGE.read_bytes()
        if path == "/question":
            number = self._query.get("number")
            if number is not None and not number.isdecimal():
                raise StudyError(f"number={number[:40]} is no number")
            return _json(self.study.question(self._rater, None if number is None else int(number)))
        if path not in ("/left", "/right", "/picture"):
            raise LookupError(f"there is no {path[:80]}")
        comparison = self.study.comparison(self._rater, self._query.get("id", ""))
        if path == "/picture":
            return "image/png", comparison.item.picture.read_bytes()
        shown = comparison.left if path == "/left" else comparison.right
        return "video/mp4", comparison.item.videos[shown].read_bytes()

    def _post(self) -> tuple[str, bytes]:
        if urlsplit(self.path).path != "/answer":
            raise LookupError(f"there is no {self.path[:80]}")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            raise StudyError("an answer is a short JSON text with its length")
        try:
            sent = json.loads(self.rfile.read(int(length)))
            rater, name, choice = (sent[key] for key in ("rater", "id", "choice"))
        except (ValueError, TypeError, KeyError) as error:
            raise StudyError('an answer is {"rater": ..., "id": ..., "choice": "left" or "right"}') from error
        with self.study.lock:
            return _json(self.study.answer(checked_rater(str(rater)), str(name), str(choice)))

    def _answer(self, work) -> None:
        try:
            status, (kind, content) = HTTPStatus.OK, work()
        except StudyError as error:
            status, (kind, content) = HTTPStatus.BAD_REQUEST, _json({"error": str(error)})
        except (LookupError, FileNotFoundError) as error:
            status, (kind, content) = HTTPStatus.NOT_FOUND, _json({"error": str(error)})
        except OSError as error:  # such as a full disk
            status, (kind, content) = HTTPStatus.INTERNAL_SERVER_ERROR, _json({"error": f"not stored: {error}"})
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the browser went on to something else
            pass

    @cached_property
    def _query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    @property
    def _rater(self) -> str:
        return checked_rater(self._query.get("rater", ""))

    def log_message(self, *_) -> None:
        """Nothing: a study asks hundreds of questions."""


def _json(content: dict[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()
