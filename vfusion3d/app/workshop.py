"""What the page of `vfusion3d app` asks for: pictures come in, are cut out, become meshes, and these become files.

One thread cuts out and one makes objects, so that the next picture can be looked at while a video is made. Nothing
outlives the workshop: files lie in a folder that is deleted with it, and only the last pictures are kept.
"""

import math
import re
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from vfusion3d.foundations.background_removal import CutOut, cut_out
from vfusion3d.model.asset import Asset
from vfusion3d.model.pipeline import ESTIMATED, ImageTo3DPipeline
from vfusion3d.model.preprocess import load_image, prepare
from vfusion3d.runs.local_server import PageError, printable

FILES = {".glb": "model/gltf-binary", ".zip": "application/zip", ".ply": "application/octet-stream"}
FILES |= {".stl": "model/stl", ".mp4": "video/mp4"}  # .zip: an OBJ with its materials and texture
KEPT = 8  # pictures
TURN = 48  # frames of a video
LOADED = 2  # weights in memory
KEYS = """<script>
  // Arrows turn the object, plus and minus come nearer and go away: for who has no mouse.
  document.body.tabIndex = 0;
  addEventListener("keydown", event => {
    const turn = {ArrowLeft: [-.15, 0], ArrowRight: [.15, 0], ArrowUp: [0, .15], ArrowDown: [0, -.15]}[event.key];
    const zoom = {"+": .9, "=": .9, "-": 1.1}[event.key];
    if (!controls || !(turn || zoom)) return;
    event.preventDefault();
    const seen = new THREE.Spherical().setFromVector3(camera.position.clone().sub(controls.target));
    if (turn) { seen.theta += turn[0]; seen.phi -= turn[1]; camera.up.set(0, 1, 0); }
    seen.radius *= zoom || 1;
    camera.position.setFromSpherical(seen.makeSafe()).add(controls.target);
  });
</script>"""


class Stopped(RuntimeError):
    """The work was asked to end."""


@dataclass
class Picture:
    """A picture that was sent, and what has become of it. shown: its name; name: without a suffix, fit for files."""

    id: str
    shown: str
    name: str
    folder: Path
    cut: CutOut | None = None
    asset: Asset | None = None
    work: Future | None = None
    stopping: bool = False
    progress: tuple[str, int, int] = ("", 0, 1)  # what is done, and how many of how many steps

    @property
    def file(self) -> Path:
        """The picture as it came."""
        return self.folder / "picture"


class Workshop:
    """Pictures to assets, for a page.

    weights: what can be chosen, the first by default: mini, base, folders, or names on the hub. folders: whether the
    page may name others that lie on this machine. device, resolution, video_size: as for `reconstruct`. Methods raise
    PageError, in words for the page; other errors carry a message as good as theirs.
    """

    def __init__(
        self,
        weights: Sequence[str] = ("mini", "base"),
        folders: bool = True,
        device: str | None = None,
        resolution: int = 256,
        video_size: int = 256,
    ):
        self.weights, self.folders, self.device = list(weights), folders, device
        self.resolution, self.video_size = resolution, video_size
        self._home = tempfile.TemporaryDirectory(prefix="vfusion3d-app-")
        self._pictures: dict[str, Picture] = {}
        self._pipelines: dict[str, ImageTo3DPipeline] = {}
        self.cutting, self.making = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._closed = False

    def close(self) -> None:
        """End all work at its next step, and delete every file."""
        self._closed = True
        for one in (self.cutting, self.making):
            one.shutdown(cancel_futures=True)
        self._home.cleanup()

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # What is quick

    def picture(self, name: str) -> Picture:
        """A picture by its id."""
        if name not in self._pictures:
            raise PageError("this picture is not kept any more; choose it again")
        return self._pictures[name]

    def state(self, picture: Picture) -> dict[str, Any]:
        """What the last work on a picture came to: idle, waiting, working, stopped, failed (error) or done."""
        work = picture.work
        if work is None or work.cancelled():
            return {"state": "idle" if work is None else "stopped"}
        if not work.done():
            what, done, steps = picture.progress
            return {"state": "working" if what else "waiting", "doing": what, "done": done, "steps": steps}
        error = work.exception()
        if error is None:
            return {"state": "done"} | work.result()
        return {"state": "stopped"} if isinstance(error, Stopped) else {"state": "failed", "error": in_words(error)}

    def stop(self, picture: Picture) -> None:
        """End the work on a picture at its next step."""
        picture.stopping = True
        if picture.work is not None:
            picture.work.cancel()

    # What takes its time: in the thread `cutting`

    def add(self, name: str, content: bytes) -> dict[str, Any]:
        """Keep a picture, and say what it is. name: of its file. content: of that file."""
        shown = printable(name) or "the picture"
        try:
            load_image(content)
        except ValueError as error:
            raise PageError(in_words(error).replace(f"<{len(content)} bytes>", shown)) from error
        folder = Path(tempfile.mkdtemp(dir=self._home.name))
        picture = Picture(secrets.token_urlsafe(9), shown, _for_files(name), folder)
        picture.file.write_bytes(content)
        for other in list(self._pictures.values())[: max(0, len(self._pictures) - KEPT + 1)]:
            self.stop(other)
            del self._pictures[other.id]
            shutil.rmtree(other.folder, ignore_errors=True)
        self._pictures[picture.id] = picture
        return {"id": picture.id, "name": shown}

    def shown(self, picture: Picture) -> bytes:
        """The picture as a PNG of at most 1024 pixels a side: browsers cannot show every format that is read."""
        return _png(cut_out(load_image(picture.file), "keep").rgba)

    def cut(
        self,
        picture: Picture,
        background: str = "auto",
        threshold: float | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> dict[str, Any]:
        """Cut the object out, with a person's corrections (see `cut_out`), and say how."""
        picture.cut = None
        image = load_image(picture.file)
        picture.cut = cut_out(image, background, picture.shown, box=box, threshold=threshold)
        return {"background": picture.cut.background, "notices": list(picture.cut.notices)}

    def cut_picture(self, picture: Picture) -> bytes:
        """What is left of the picture without its background, as a PNG."""
        return _png(_cut_of(picture).rgba)

    # And in the thread `making`

    def elevation(self, picture: Picture, weights: str) -> dict[str, Any]:
        """From how far above the object was seen, degrees, as these weights would have it."""
        pipeline, cut = self._pipeline(weights), _cut_of(picture)
        seen = prepare(cut.rgba, pipeline.model.config.image_size, _way(cut)).image
        degrees = math.degrees(pipeline.elevations([seen])[0])
        return {"degrees": round(degrees, 1), "estimated": pipeline.elevation_estimator is not None}

    def start(self, picture: Picture, weights: str, elevation: float | None = None) -> None:
        """Begin to make the mesh and its viewer. elevation: degrees, None: as `elevation` says."""
        self._check(weights)
        if elevation is not None and not abs(elevation) < 90:
            raise PageError(f"an elevation of {elevation:g} degrees: must be between -90 and 90")
        self._begin(picture, self._make, _cut_of(picture), weights, elevation)

    def export(self, picture: Picture, suffix: str) -> None:
        """Begin to write the mesh, or its video, as one of `FILES`."""
        if suffix not in FILES:
            raise PageError(f"files are {', '.join(FILES)}, and not {printable(suffix)}")
        if picture.asset is None:
            raise PageError("there is no object yet: make it first")
        self._begin(picture, self._export, picture.asset, suffix)

    def _begin(self, picture: Picture, work: Callable[..., dict[str, Any]], *given: Any) -> None:
        if picture.work is not None and not picture.work.done():
            raise PageError("this picture is worked on already; wait for it, or stop it")
        picture.stopping, picture.progress = False, ("", 0, 1)
        picture.work = self.making.submit(work, picture, *given)

    def _step(self, picture: Picture, doing: str, done: int, steps: int) -> None:
        if picture.stopping or self._closed:
            raise Stopped
        picture.progress = (doing, done, steps)

    def _make(self, picture: Picture, cut: CutOut, weights: str, elevation: float | None) -> dict[str, Any]:
        start = time.perf_counter()
        self._step(picture, "loading the weights", 0, 4)
        pipeline = self._pipeline(weights)
        self._step(picture, "looking at the picture", 1, 4)
        radians = None if elevation is None else math.radians(elevation)
        made = pipeline(cut.rgba, radians, background=_way(cut))
        asset = replace(made, name=picture.name, background=cut.background, notices=cut.notices)
        self._step(picture, "making the mesh", 2, 4)
        mesh = asset.mesh(self.resolution)
        self._step(picture, "making the view", 3, 4)
        viewer = asset.save_viewer(picture.folder / "viewer.html", mesh)
        page = viewer.read_text(encoding="utf-8").replace("</body>", f"{KEYS}</body>")
        viewer.write_text(page.replace("trimesh: threejs viewer", "The object"), encoding="utf-8")
        for old in picture.folder.glob("made.*"):
            old.unlink()
        picture.asset = asset
        seen = {"elevation": round(math.degrees(asset.elevation), 1), "faces": len(mesh.faces)}
        return seen | {"seconds": round(time.perf_counter() - start, 1)}

    def _export(self, picture: Picture, asset: Asset, suffix: str) -> dict[str, Any]:
        file = made_file(picture, suffix)
        if not file.exists():
            if suffix == ".mp4":
                done = iter(range(TURN + 1))
                tell = lambda: self._step(picture, "making the video", next(done), TURN)  # noqa: E731
                tell()
                asset.turntable(file, TURN, self.video_size, progress=tell)
            else:
                self._step(picture, "making the file", 0, 1)
                _save(asset, picture, file, self.resolution)
        return {"file": suffix}

    def _check(self, weights: str) -> None:
        if weights in self.weights:
            return
        if not self.folders:
            raise PageError(f"the weights are {', '.join(self.weights)}, as the page was started with")
        if not Path(weights).expanduser().is_dir():
            raise PageError(f"{printable(weights)}: is no folder on this machine; weights are a folder, mini or base")

    def _pipeline(self, weights: str) -> ImageTo3DPipeline:
        self._check(weights)
        if weights not in self._pipelines:
            for old in list(self._pipelines)[: max(0, len(self._pipelines) - LOADED + 1)]:
                del self._pipelines[old]
            name = weights if weights in ESTIMATED else str(Path(weights).expanduser())
            self._pipelines[weights] = ImageTo3DPipeline.from_pretrained(name, self.device)
        return self._pipelines[weights]


def made_file(picture: Picture, suffix: str) -> Path:
    """Where a file for the person lies; what it is called when it is downloaded is the picture's name."""
    return picture.folder / f"made{suffix}"


def in_words(error: BaseException) -> str:
    """An error as one sentence for the page."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this"
    return " ".join(str(error).split()) or type(error).__name__


def _save(asset: Asset, picture: Picture, file: Path, resolution: int) -> None:
    if file.suffix != ".zip":
        asset.save(file, resolution)
        return
    with tempfile.TemporaryDirectory(dir=picture.folder) as folder:
        asset.save(Path(folder) / f"{picture.name}.obj", resolution)
        partial = Path(folder, "all.zip")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as pack:
            for part in sorted(Path(folder).glob(f"{picture.name}*")):
                pack.write(part, part.name)
        partial.replace(file)


def _cut_of(picture: Picture) -> CutOut:
    if picture.cut is None:
        raise PageError("the object is not cut out yet; change the way, the threshold or the box until it is")
    return picture.cut


def _way(cut: CutOut) -> str:
    """How what was cut out already goes into the model."""
    return "keep" if cut.background == "keep" else "alpha"


def _for_files(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(name.replace("\\", "/")).stem)[:60].strip("_") or "object"


def _png(image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
