"""The user study as a page in a browser: `study_page.html`, and the small server behind it, which is tornado's.

    GET  /?rater=anna                       the page; without a name it asks for one
    GET  /question?rater=anna&number=12     a question as JSON; without a number the first that is not answered
    GET  /left?rater=anna&id=..., /right, /picture      what it shows; no address says which method is which
    POST /answer  {"rater": "anna", "id": "...", "choice": "left"}      what comes next, as /question answers

A request that makes no sense is answered with a status from 400 on and {"error": ...}, and changes nothing. Who asks
has to be a page of this server (Host, Origin), which no other page can frame. Where more than this machine can reach
the server, the printed address holds a token, without which nothing is answered.

Notable: tornado, because Jupyter brings it anyway; its limits and timeouts, and its handler of files, which knows
ranges of bytes (Safari plays no video without), are better kept than ours would be.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from vfusion3d.runs.claim import short_name
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

PAGE = Path(__file__).with_name("study_page.html").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
LONGEST = 10_000  # bytes of an answer
PATIENCE = 20  # seconds in which a request has to be there whole
SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self'; media-src blob:; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"script-src 'sha256-{SCRIPT_HASH}'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "vfusion3d",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ASKED = {
    "quality": ("Which of the two objects looks better?", "Judge shape and surface from all sides, as it turns."),
    "faithfulness": (
        "Which of the two objects is truer to the picture?",
        "Both were made from this one picture: compare shape, colours and details with it.",
    ),
}


class Study:
    """What is asked, and what was answered: the state behind the page, for any number of raters.

    Raises StudyError where there is nothing to ask.
    """

    def __init__(self, items: list[Item], folder: str | Path, seed: int = 0):
        self.items = items
        self.folder = Path(folder)
        self.seed = seed
        self.order: dict[str, dict[str, Comparison]] = {}
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


class StudyServer:
    """A server of the study that has its port and does not answer yet: `serve_forever` does, until `shutdown`.

    port 0 takes any free one; `server_port` says which. token: "" where only this machine can reach the host. Raises
    StudyError where nothing can be served there.
    """

    def __init__(self, study: Study, port: int = 0, host: str = "127.0.0.1"):
        try:
            self._sockets = bind_sockets(port, host)
        except (OSError, OverflowError, UnicodeError) as error:
            raise StudyError(f"nothing can be served at {host}:{port} ({error}): choose another port") from error
        self.server_port = self._sockets[0].getsockname()[1]
        near = all(ipaddress.ip_address(bound.getsockname()[0]).is_loopback for bound in self._sockets)
        self.token = "" if near else secrets.token_urlsafe(16)
        self.host = f"[{host}]" if ":" in host else host
        known = {"study": study, "token": self.token, "host": host.lower(), "cookie": f"study-{self.server_port}"}
        self._application = Application(
            [
                ("/", _Page, known),
                ("/question", _Question, known),
                ("/answer", _Answer, known),
                ("/(left|right|picture)", _Shown, known),
            ],
            default_handler_class=_Nothing,
            default_handler_args=known,
            log_function=lambda _: None,  # a study asks hundreds of questions
        )
        self._runner = asyncio.Runner()
        self._asked_to_end, self._ended = asyncio.Event(), threading.Event()

    def address(self, rater: str | None = None) -> str:
        """Where a browser finds the page: for a rater, or for whoever enters a name."""
        query = urlencode({name: value for name, value in (("token", self.token), ("rater", rater)) if value})
        return f"http://{self.host}:{self.server_port}/{query and f'?{query}'}"

    def serve_forever(self) -> None:
        """Answer, until another thread calls `shutdown` or a KeyboardInterrupt comes."""
        try:
            with self._runner:
                self._runner.run(self._serve())
        finally:
            self._ended.set()

    async def _serve(self) -> None:
        logging.getLogger("tornado.general").setLevel(logging.ERROR)  # it tells of every request that is none
        limits = {"max_header_size": 16_384, "max_body_size": 100 * LONGEST}
        server = HTTPServer(self._application, idle_connection_timeout=PATIENCE, body_timeout=PATIENCE, **limits)
        server.add_sockets(self._sockets)
        try:
            await self._asked_to_end.wait()
        finally:
            server.stop()
            await server.close_all_connections()

    def shutdown(self) -> None:
        """End `serve_forever`, which runs in another thread, and wait for that."""
        if not self._ended.is_set():
            self._runner.get_loop().call_soon_threadsafe(self._asked_to_end.set)
            self._ended.wait()

    def server_close(self) -> None:
        """Give the port back."""
        for bound in self._sockets:
            bound.close()

    def __enter__(self) -> "StudyServer":
        return self

    def __exit__(self, *_) -> None:
        self.server_close()


class _Handler(RequestHandler):
    """What all answers have in common: who may ask, and how errors look."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST")

    def initialize(self, study: Study, token: str, host: str, cookie: str) -> None:
        self.study, self.token, self.host, self.cookie = study, token, host, cookie

    def set_default_headers(self) -> None:
        for name, value in SAFE.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        if not _is_own(self.request, self.host):
            raise HTTPError(403, "asked by another page, or under a name that is not this machine's: use its address")
        given = self.get_query_argument("token", None) or self.get_cookie(self.cookie, "")
        if not hmac.compare_digest(given.encode(), self.token.encode()) and self.token:
            raise HTTPError(403, "open the whole address that `vfusion3d study` printed")

    @property
    def rater(self) -> str:
        return checked_rater(self.get_query_argument("rater", ""))

    def send_error(self, status_code: int = 500, **options) -> None:
        error = (options.get("exc_info") or (None, None))[1]
        super().send_error(400 if isinstance(error, StudyError) else status_code, **options)

    def write_error(self, status_code: int, exc_info=None, **_) -> None:
        error = exc_info[1] if exc_info else None
        said = self._reason
        if isinstance(error, StudyError):
            said = str(error)
        elif isinstance(error, HTTPError) and error.log_message:
            said = error.log_message % error.args
        elif isinstance(error, OSError):  # such as a full disk
            said = f"not stored: {error.strerror}"
        self.write({"error": said})

    def log_exception(self, kind, value, traceback) -> None:
        """One line for what the study's own person can mend; a request that makes no sense is nothing to tell."""
        if not isinstance(value, HTTPError | StudyError):
            print(f"vfusion3d study: {self.request.path}: {kind.__name__}: {value}", file=sys.stderr, flush=True)


class _Nothing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404, f"there is no {_printable(self.request.path)}")


class _Page(_Handler):
    def get(self) -> None:
        if self.token and self.get_query_argument("token", None):  # out of sight, and out of the browser's history
            self.set_cookie(self.cookie, self.token, httponly=True, samesite="Lax")
            rater = self.get_query_argument("rater", "")
            self.redirect(f"/?rater={checked_rater(rater)}" if rater else "/", status=303)
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(PAGE)

    head = get


class _Question(_Handler):
    def get(self) -> None:
        number = self.get_query_argument("number", None)
        if number is not None and not re.fullmatch(r"[0-9]{1,9}", number):
            raise StudyError(f"number={_printable(number)} is no number")
        self.write(self.study.question(self.rater, None if number is None else int(number)))

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
        self.write(self.study.answer(checked_rater(rater), name, choice))


class _Shown(_Handler, StaticFileHandler):
    """A picture or a video: tornado's handler of files, which finds the one that the rater's question shows."""

    def initialize(self, **known) -> None:
        _Handler.initialize(self, **known)
        StaticFileHandler.initialize(self, path="/")

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        comparison = self.study.comparison(self.rater, self.get_query_argument("id", ""))
        videos = {"left": comparison.left, "right": comparison.right}
        item = comparison.item
        file = (item.picture if self.path == "picture" else item.videos[videos[self.path]]).resolve()
        return super().validate_absolute_path(str(file.parent), str(file))

    def compute_etag(self) -> None:
        """None: nothing is kept (`Cache-Control`), and tornado would read the file twice for it."""


def _is_own(request: HTTPServerRequest, host: str) -> bool:
    """Whether a request comes from a page of this server, or from no page at all.

    A name that its owner points at this machine for a moment (DNS rebinding) is neither an address nor ours.
    """
    name = re.sub(r":\d*$", "", request.host.lower())
    ours = {host, "localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
    if name not in ours:
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
    origin = request.headers.get("Origin")
    if origin is not None:
        return re.sub("^https?://", "", origin.lower()) == request.host.lower()
    return request.method != "POST" or request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")


def _printable(text: str) -> str:
    return "".join(letter for letter in text[:60] if letter.isprintable())


def study_server(study: Study, port: int = 0, host: str = "127.0.0.1") -> StudyServer:
    """A server of the study, not yet running: see `StudyServer`."""
    return StudyServer(study, port, host)
