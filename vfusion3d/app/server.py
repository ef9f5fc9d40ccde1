"""The page of `vfusion3d app`: `page.html`, and what answers it. What is done for it is in `workshop.py`.

    GET  /                                  the page
    GET  /choices                           what can be chosen, as JSON
    POST /picture?name=photo.jpg            the picture's bytes; its id comes back
    GET  /picture?id=..., /cut?id=...       it, and what is left without the background, as PNG
    POST /cut {"id", "background", "threshold", "box"}      how the object is cut out; how it was comes back
    POST /elevation {"id", "weights"}       from how far above it is seen
    POST /make {"id", "weights", "elevation"}, /export {"id", "suffix"}, /stop {"id"}       begin, or end, work
    GET  /state?id=...                      how far that is
    GET  /view/ID/viewer.html               the object, to turn
    GET  /file?id=...&suffix=.glb           a file to keep

Notable: no Gradio. Version 6.31 wants Pillow below 13, which this package is above, comes with 15 more packages (80 MB
by itself), and its files name fonts.googleapis.com, cdn.babylonjs.com and, for analytics that are on by default,
api.gradio.app. The server of the study's page was here already: who may ask, and the token, are its
(`runs/local_server.py`).
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from tornado.ioloop import IOLoop
from tornado.web import HTTPError, StaticFileHandler, stream_request_body

from vfusion3d.app.workshop import FILES, Picture, Workshop, in_words, made_file
from vfusion3d.foundations.background_removal import BACKGROUNDS
from vfusion3d.runs.local_server import Handler, LocalServer, PageError, read_page, script_hash
from vfusion3d.runs.reading import ReadingError, read_value

PAGE = read_page(Path(__file__).with_name("page.html"))
LARGEST = 32 * 2**20  # bytes of a picture
PATIENCE = 120  # seconds in which it has to be there: phones are slow
Kind = TypeVar("Kind")


class _About(TypedDict):
    id: str


class _Cut(_About):
    background: str
    threshold: float | None
    box: tuple[float, float, float, float] | None


class _Elevation(_About):
    weights: str


class _Make(_Elevation):
    elevation: float | None


class _Export(_About):
    suffix: str


def app_server(workshop: Workshop, port: int = 0, host: str = "127.0.0.1") -> LocalServer:
    """A server of the page, not yet running: see `LocalServer`. Raises PageError where it cannot be served there."""
    routes = [
        *(("/", _Page), ("/choices", _Choices), ("/picture", _Upload), ("/cut", _CutOut), ("/elevation", _Seen)),
        *(("/make", _Begin), ("/export", _Write), ("/stop", _Stop), ("/state", _State), ("/(file)", _File)),
        (r"/view/([\w-]{1,40}/viewer\.(?:html|js))", _View),
    ]
    return LocalServer("app", routes, workshop, port, host, PATIENCE)


class _Handler(Handler):
    """What all answers of the app have in common: the workshop is `known`."""

    POLICY = (
        "connect-src 'self'; img-src 'self' data:; frame-src 'self'; style-src 'unsafe-inline'; "
        f"script-src {script_hash(PAGE)}"
    )

    @property
    def picture(self) -> Picture:
        return self.known.picture(self.get_query_argument("id", ""))

    def sent(self, kind: type[Kind]) -> Kind:
        """The JSON that was sent, as this kind."""
        try:
            return read_value(kind, json.loads(self.request.body))
        except (ReadingError, ValueError, RecursionError) as error:
            raise PageError(f"what was sent is not what is asked for: {in_words(error)}") from error

    async def done_by(self, thread: ThreadPoolExecutor, work: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """What the work comes to, while other requests are answered. Its errors are for whoever asked."""
        try:
            return await IOLoop.current().run_in_executor(thread, lambda: work(*given, **more))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise PageError(in_words(error)) from error

    def write_picture(self, content: bytes) -> None:
        self.set_header("Content-Type", "image/png")
        self.write(content)


class _Page(_Handler):
    def get(self) -> None:
        if not self.token_was_hidden("/"):
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.write(PAGE)

    head = get


class _Choices(_Handler):
    def get(self) -> None:
        chosen = {"weights": self.known.weights, "folders": self.known.folders, "largest": LARGEST}
        self.write(chosen | {"backgrounds": BACKGROUNDS})


@stream_request_body
class _Upload(_Handler):
    """A picture on its way in; it is refused before it is read where it is too large or not ours to read."""

    def prepare(self) -> None:
        super().prepare()
        self.content = bytearray()
        if self.request.method == "POST":
            self.request.connection.set_max_body_size(LARGEST)
            length = self.request.headers.get("Content-Length", "0")
            if not length.isdecimal() or len(length) > 12 or int(length) > LARGEST:
                raise HTTPError(413, f"a picture may have {LARGEST >> 20} MB at most; reduce it first")

    def data_received(self, chunk: bytes) -> None:
        self.content += chunk

    async def post(self) -> None:
        name = self.get_query_argument("name", "")
        self.write(await self.done_by(self.known.cutting, self.known.add, name, bytes(self.content)))

    async def get(self) -> None:
        self.write_picture(await self.done_by(self.known.cutting, self.known.shown, self.picture))


class _CutOut(_Handler):
    async def post(self) -> None:
        sent = self.sent(_Cut)
        picture = self.known.picture(sent["id"])
        how = {name: sent[name] for name in ("background", "threshold", "box")}
        self.write(await self.done_by(self.known.cutting, self.known.cut, picture, **how))

    async def get(self) -> None:
        self.write_picture(await self.done_by(self.known.cutting, self.known.cut_picture, self.picture))


class _Seen(_Handler):
    async def post(self) -> None:
        sent = self.sent(_Elevation)
        picture = self.known.picture(sent["id"])
        self.write(await self.done_by(self.known.making, self.known.elevation, picture, sent["weights"]))


class _Begin(_Handler):
    def post(self) -> None:
        sent = self.sent(_Make)
        self.known.start(self.known.picture(sent["id"]), sent["weights"], sent["elevation"])
        self.write({})


class _Write(_Handler):
    def post(self) -> None:
        sent = self.sent(_Export)
        self.known.export(self.known.picture(sent["id"]), sent["suffix"])
        self.write({})


class _Stop(_Handler):
    def post(self) -> None:
        self.known.stop(self.known.picture(self.sent(_About)["id"]))
        self.write({})


class _State(_Handler):
    def get(self) -> None:
        self.write(self.known.state(self.picture))


class _Stored(_Handler, StaticFileHandler):
    """A file of the workshop, by tornado's handler of files."""

    def initialize(self, **guard) -> None:
        _Handler.initialize(self, **guard)
        StaticFileHandler.initialize(self, path="/")

    def compute_etag(self) -> None:
        """None: nothing is kept (`Cache-Control`), and tornado would read the file twice for it."""


class _File(_Stored):
    """Something to keep."""

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        suffix = self.get_query_argument("suffix", "")
        if suffix not in FILES:
            raise PageError(f"files are {', '.join(FILES)}")
        file = made_file(self.picture, suffix).resolve()
        if not file.exists():
            raise HTTPError(404, f"there is no {suffix} yet")
        self.set_header("Content-Disposition", f'attachment; filename="{self.picture.name}{suffix}"')
        return super().validate_absolute_path(str(file.parent), str(file))

    def get_content_type(self) -> str:
        return FILES[Path(self.absolute_path).suffix]


class _View(_Stored):
    """The object to turn: a page of its own, in a frame of ours."""

    FRAMED_BY = "self"

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        name, _, file = self.path.partition("/")
        stored = (self.known.picture(name).folder / file).resolve()
        if stored.suffix == ".html" and stored.exists():
            scripts = script_hash(stored.read_text(encoding="utf-8"))
            self.POLICY = f"connect-src data:; style-src 'unsafe-inline'; script-src 'self' {scripts}"
            self.set_default_headers()
        return super().validate_absolute_path(str(stored.parent), str(stored))
