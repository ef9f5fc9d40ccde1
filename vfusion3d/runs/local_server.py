"""A page in a browser, served from this machine: who may ask, what errors look like, and when it ends.

Who asks has to be a page of this server (Host, Origin), which no other page can frame. Where more than this machine can
reach the server, the printed address holds a token, without which nothing is answered. A request that makes no sense is
answered with a status from 400 on and {"error": ...}.

Notable: tornado, because Jupyter brings it anyway; its limits and timeouts, and its handler of files, which knows
ranges of bytes (Safari plays no video without), are better kept than ours would be.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

LONGEST = 1_000_000  # bytes of a request, where its handler does not say otherwise
PATIENCE = 20  # seconds in which a request has to be there whole


class PageError(ValueError):
    """A request that cannot be answered, or a page that cannot be served: one line, for whoever asked."""


class LocalServer:
    """A server of pages that has its port and does not answer yet: `serve_forever` does, until `shutdown`.

    name: of the command, for messages and cookies. routes: paths and their handlers, children of `Handler`. known: what
    these find as `self.known`. port 0 takes any free one; `server_port` says which. token: "" where only this machine
    can reach the host. Raises PageError where nothing can be served there.
    """

    def __init__(
        self,
        name: str,
        routes: Sequence[tuple[str, type["Handler"]]],
        known: Any,
        port: int = 0,
        host: str = "127.0.0.1",
        patience: float = PATIENCE,
    ):
        try:
            self._sockets = bind_sockets(port, host)
        except (OSError, OverflowError, UnicodeError) as error:
            raise PageError(f"nothing can be served at {host}:{port} ({error}): choose another port") from error
        self.server_port = self._sockets[0].getsockname()[1]
        near = all(ipaddress.ip_address(bound.getsockname()[0]).is_loopback for bound in self._sockets)
        self.token = "" if near else secrets.token_urlsafe(16)
        self.host = f"[{host}]" if ":" in host else host
        self.patience = patience
        guard = {"known": known, "token": self.token, "host": host.lower(), "command": name}
        guard["cookie"] = f"{name}-{self.server_port}"
        self._application = Application(
            [(path, handler, guard) for path, handler in routes],
            default_handler_class=_Nothing,
            default_handler_args=guard,
            log_function=lambda _: None,  # a page asks hundreds of times
        )
        self._runner = asyncio.Runner()
        self._asked_to_end, self._ended = asyncio.Event(), threading.Event()

    def address(self, **query: str | None) -> str:
        """Where a browser finds the page, with what is asked of it."""
        given = urlencode({name: value for name, value in {"token": self.token, **query}.items() if value})
        return f"http://{self.host}:{self.server_port}/{given and f'?{given}'}"

    def serve_forever(self) -> None:
        """Answer, until another thread calls `shutdown` or a KeyboardInterrupt comes."""
        try:
            with self._runner:
                self._runner.run(self._serve())
        finally:
            self._ended.set()

    async def _serve(self) -> None:
        logging.getLogger("tornado.general").setLevel(logging.ERROR)  # it tells of every request that is none
        limits = {"max_header_size": 16_384, "max_body_size": LONGEST}
        patience = {"idle_connection_timeout": self.patience, "body_timeout": self.patience}
        server = HTTPServer(self._application, **limits, **patience)
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

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_) -> None:
        self.server_close()


class Handler(RequestHandler):
    """What all answers have in common: who may ask, and how errors look.

    known: what the server was given. POLICY: the page's Content-Security-Policy beside what holds for all;
    FRAMED_BY: which pages may show it in a frame.
    """

    SUPPORTED_METHODS = ("GET", "HEAD", "POST")
    POLICY, FRAMED_BY = "", "none"

    def initialize(self, known: Any, token: str, host: str, command: str, cookie: str) -> None:
        self.known, self.token, self.host, self.command, self.cookie = known, token, host, command, cookie

    def set_default_headers(self) -> None:
        policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors '{self.FRAMED_BY}'"
        for name, value in {
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"{policy}; {self.POLICY}",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Server": "vfusion3d",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY" if self.FRAMED_BY == "none" else "SAMEORIGIN",
        }.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        if not _is_own(self.request, self.host):
            raise HTTPError(403, "asked by another page, or under a name that is not this machine's: use its address")
        given = self.get_query_argument("token", None) or self.get_cookie(self.cookie, "")
        if not hmac.compare_digest(given.encode(), self.token.encode()) and self.token:
            raise HTTPError(403, f"open the whole address that `vfusion3d {self.command}` printed")

    def token_was_hidden(self, address: str) -> bool:
        """Whether the token stood in the address, which is now a cookie, and the browser sent to `address`."""
        if not (self.token and self.get_query_argument("token", None)):
            return False
        self.set_cookie(self.cookie, self.token, httponly=True, samesite="Lax")
        self.redirect(address, status=303)
        return True

    def send_error(self, status_code: int = 500, **options) -> None:
        error = (options.get("exc_info") or (None, None))[1]
        super().send_error(400 if isinstance(error, PageError) else status_code, **options)

    def write_error(self, status_code: int, exc_info=None, **_) -> None:
        error = exc_info[1] if exc_info else None
        said = self._reason
        if isinstance(error, PageError):
            said = str(error)
        elif isinstance(error, HTTPError) and error.log_message:
            said = error.log_message % error.args
        elif isinstance(error, OSError):  # such as a full disk
            said = f"not stored: {error.strerror}"
        self.write({"error": said})

    def log_exception(self, kind, value, traceback) -> None:
        """One line for what the server's own person can mend; a request that makes no sense is nothing to tell."""
        if not isinstance(value, HTTPError | PageError):
            print(f"vfusion3d {self.command}: {self.request.path}: {kind.__name__}: {value}", file=sys.stderr)
            sys.stderr.flush()


class _Nothing(Handler):
    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404, f"there is no {printable(self.request.path)}")


def read_page(path: Path) -> str:
    """A page of HTML, with the look that all pages of this package have (`page_look.css`)."""
    look = Path(__file__).with_name("page_look.css").read_text(encoding="utf-8")
    return path.read_text(encoding="utf-8").replace("<style>\n", f"<style>\n{look}", 1)


def script_hash(page: str) -> str:
    """What a Content-Security-Policy calls the scripts in a page: these run, and no others."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )


def printable(text: str) -> str:
    """The start of what somebody sent, for a message."""
    return "".join(letter for letter in text[:60] if letter.isprintable())


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
