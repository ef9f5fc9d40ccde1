"""What comes out: one reconstructed object, and its ways into the world: pictures, a turntable, a mesh in a file
(`mesh.py` makes it, `texture.py` its texture, `mesh_export.py` the files), a viewer."""

import base64
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
import trimesh
from jaxtyping import Float
from PIL import Image, ImageSequence
from torch import Tensor

from vfusion3d.cameras import default_intrinsics, orbit_cameras
from vfusion3d.data.images import to_bytes
from vfusion3d.model.mesh import FACES, finish
from vfusion3d.model.mesh_export import MESH_SUFFIXES, to_files, viewer_glb
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.pictures import VIDEO_SUFFIXES
from vfusion3d.runs.progress import tqdm

FRAMES_AT_ONCE = 8
VIEWER_RESOLUTION = 96
VIEWER_FACES = 12_000  # some 250 kB of a GLB; the script around it takes 0.75 MB more
OUTLINE_VIEWS = 3  # around the object, by which the threshold is chosen
TEXTURE = 1024  # texels a side
TEXTURES = (16, 8192)  # the smallest and the largest


@dataclass(frozen=True, eq=False)
class Asset:
    """A reconstructed object.

    model: what made it. planes: its triplane. image: what the model saw. box: where that lies in the picture (left,
    top, right, bottom, in pixels of the loaded picture, at most 1024 a side). background: how the object was cut out.
    elevation: of the source camera, radians. notices: what a person may want to know of the cut-out, a line each.
    """

    model: VFusion3D = field(repr=False)
    planes: Float[Tensor, "1 3 channels resolution resolution"] = field(repr=False)
    image: Float[Tensor, "3 image_size image_size"] = field(repr=False)
    box: tuple[float, float, float, float]
    background: str
    elevation: float
    name: str
    notices: tuple[str, ...] = ()
    _meshes: dict = field(default_factory=dict, repr=False)

    def mesh(
        self,
        resolution: int = 256,
        threshold: float | None = None,
        faces: int | None = FACES,
        keep_all: bool = False,
    ) -> trimesh.Trimesh:
        """The surface with vertex colours, closed, z up, world units; made once for each set of arguments.

        resolution: grid points along a side of [-1, 1]^3. threshold: density per world unit; by default the one at
        which the mesh has the outline of the renders (`mesh.outline_threshold`). faces: at most so many, or as few as
        the surface's handles allow; None keeps all, some hundred thousand. keep_all: keep what does not hang together
        with the largest part. Raises ValueError where the density never crosses the threshold.
        """
        key = (resolution, threshold, faces, keep_all)
        if key not in self._meshes:
            raw = self._surface(resolution, threshold)
            mesh = finish(raw, faces, keep_all)
            mesh.visual.vertex_colors = self.model.colours_at(self.planes, mesh.vertices)
            self._meshes[key] = mesh
        return self._meshes[key]

    def _surface(self, resolution: int, threshold: float | None) -> trimesh.Trimesh:
        if threshold is None and "outline" not in self._meshes:
            around = orbit_cameras(OUTLINE_VIEWS, self.elevation)
            self._meshes["outline"] = self.model.outline_threshold(self.planes, around)
        threshold = self._meshes["outline"] if threshold is None else threshold
        key = (resolution, threshold)
        if key not in self._meshes:
            self._meshes[key] = self.model.extract_mesh(self.planes, resolution, threshold, coloured=False)
        return self._meshes[key]

    @torch.no_grad()
    def render(
        self,
        cam2world: Float[Tensor, "views 3 4"] | None = None,
        intrinsics: Float[Tensor, "views 4"] | None = None,
        size: int = 256,
    ) -> Float[Tensor, "views 3 size size"]:
        """Pictures on white, in [0, 1], on the CPU.

        cam2world: OpenGL axes; by default 8 cameras on an orbit, the first on the photographed side. intrinsics:
        (views, 4) or (4,), by default `cameras.INTRINSICS`. size: pixels.
        """
        cam2world = orbit_cameras(8, self.elevation) if cam2world is None else torch.as_tensor(cam2world)
        if cam2world.ndim != 3 or cam2world.shape[1:] != (3, 4):
            raise ValueError(f"cam2world has shape {tuple(cam2world.shape)}: cameras are (views, 3, 4) matrices")
        intrinsics = default_intrinsics() if intrinsics is None else torch.as_tensor(intrinsics)
        if intrinsics.shape not in ((4,), (len(cam2world), 4)):
            raise ValueError(f"intrinsics has shape {tuple(intrinsics.shape)}: must be (4,) or ({len(cam2world)}, 4)")
        cameras = cam2world.to(self.planes.device, torch.float32)[None]
        intrinsics = intrinsics.to(self.planes.device, torch.float32).expand(1, len(cam2world), 4)
        return self.model.render(self.planes, cameras, intrinsics, size).rgb[0].float().clamp(0, 1).cpu()

    def turntable(
        self,
        path: str | os.PathLike,
        frames: int = 48,
        size: int = 256,
        elevation: float | None = None,
        fps: int = 24,
        progress: bool | Callable[[], object] = False,
    ) -> Path:
        """Write one turn around the object as .mp4 (H.264, plays everywhere) or .gif (loops), and return the path.

        elevation: of the camera, radians, by default the source camera's. progress: show a bar, or what to call after
        every frame, for a bar of one's own. Raises ValueError for another suffix.
        """
        path = Path(path)
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(f"{path}: a turntable is written as {' or '.join(VIDEO_SUFFIXES)}, by the file's suffix")
        if frames < 2 or size < 16 or fps <= 0:
            raise ValueError(f"frames={frames}, size={size}, fps={fps}: needs at least 2, 16 and 1")
        cameras = orbit_cameras(frames, self.elevation if elevation is None else elevation)
        pictures = self._frames(cameras, size, progress)
        write = write_gif if path.suffix.lower() == ".gif" else write_mp4
        return write(pictures, size, fps, path)

    def _frames(self, cameras: Tensor, size: int, progress: bool | Callable[[], object]) -> Iterator[np.ndarray]:
        with tqdm(total=len(cameras), desc="turntable", unit="frame", disable=progress is not True, leave=False) as bar:
            each = progress if callable(progress) else bar.update
            for some in cameras.split(FRAMES_AT_ONCE):
                for picture in to_bytes(self.render(some, size=size)):
                    yield picture
                    each()

    def save(
        self,
        path: str | os.PathLike,
        resolution: int = 256,
        threshold: float | None = None,
        faces: int | None = FACES,
        keep_all: bool = False,
        texture: int = TEXTURE,
    ) -> Path:
        """Write the mesh as .glb, .obj (both y up), .ply or .stl (both z up), and return the path.

        A GLB and an OBJ (with a .mtl and a .png beside it, see `mesh_export.mesh_files`) have a texture of
        `texture` x `texture` texels; texture=0, and a PLY: colours at the vertices. An STL has none. The others: as for
        `mesh`. Raises ValueError for another suffix, for a texture that is too small or large, or where there is no
        surface.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in MESH_SUFFIXES:
            raise ValueError(f"{path}: a mesh is written as {', '.join(MESH_SUFFIXES)}, by the file's suffix")
        least, most = TEXTURES
        if texture and not least <= texture <= most:
            raise ValueError(
                f"texture={texture}: must be from {least} to {most} texels a side, or 0 for vertex colours"
            )
        mesh = self.mesh(resolution, threshold, faces, keep_all)
        if texture and kind in (".glb", ".obj"):
            mesh = self._textured(mesh, texture)
        for file, content in to_files(mesh, path).items():
            write_whole(file, partial(Path.write_bytes, data=content))
        return path

    def _textured(self, mesh: trimesh.Trimesh, size: int) -> trimesh.Trimesh:
        key = (id(mesh), size)  # the mesh stays in the same dictionary
        if key not in self._meshes:
            from vfusion3d.model.texture import textured  # loads xatlas and OpenCV

            self._meshes[key] = textured(mesh, partial(self.model.colours_at, self.planes), size)
        return self._meshes[key]

    def views(self, count: int = 6, size: int = 128) -> Image.Image:
        """What the model saw, then `count` renders around the object, side by side."""
        seen = torch.nn.functional.interpolate(self.image[None].float().cpu(), (size, size), mode="area")
        strip = torch.cat([seen, self.render(orbit_cameras(count, self.elevation), size=size)])
        return Image.fromarray(np.concatenate(list(to_bytes(strip)), axis=1))

    def show(self, height: int = 400) -> None:
        """In a notebook: the mesh to turn with the mouse (three.js comes with it: no network is needed), and under it a
        strip of renders, which readers of the stored notebook see where scripts do not run."""
        from IPython.display import HTML, display
        from IPython.display import Image as Picture

        display(HTML(self.viewer_html(height)))
        display(Picture(data=self._repr_png_(), format="png"))

    def viewer_html(self, height: int = 400) -> str:
        """A self-contained viewer as an <iframe>, of about 1 MB."""
        head, script, tail = _viewer()
        page = f"{head}<script>{script.replace('$B64GLTF', self._viewer_mesh())}</script>{tail}"
        page = page.replace("&", "&amp;").replace('"', "&quot;")
        return f'<div><iframe srcdoc="{page}" width="100%" height="{height}" style="border:none"></iframe></div>'

    def save_viewer(self, path: str | os.PathLike, mesh: trimesh.Trimesh | None = None) -> Path:
        """Write the viewer as a page of HTML, its script as viewer.js beside it, which other pages share; the path.

        mesh: what `mesh` gave, of which it shows as many faces as fit; by default a coarse one.
        """
        head, script, tail = _viewer()
        mesh = f'<script>const MESH = "{self._viewer_mesh(mesh)}"</script>'
        page = f'{head}{mesh}<script src="viewer.js"></script>{tail}'
        path = Path(path)
        for file, text in ((path.with_name("viewer.js"), script.replace('"$B64GLTF"', "MESH")), (path, page)):
            write_whole(file, partial(Path.write_text, data=text, encoding="utf-8"))
        return path

    def _viewer_mesh(self, mesh: trimesh.Trimesh | None = None) -> str:
        """The mesh of the viewers, in base64, seen from a little above and beside the photographed side."""
        in_front = orbit_cameras(1, elevation=0.35, distance=2.6, azimuth=0.5)[0].numpy()
        mesh = self.mesh(VIEWER_RESOLUTION, faces=VIEWER_FACES) if mesh is None else mesh
        if len(mesh.faces) > VIEWER_FACES:
            mesh = finish(mesh, VIEWER_FACES, keep_all=True)
            mesh.visual.vertex_colors = self.model.colours_at(self.planes, mesh.vertices)
        return base64.b64encode(viewer_glb(mesh, in_front)).decode()

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.views().save(buffer, format="PNG")
        return buffer.getvalue()


def _viewer() -> tuple[str, str, str]:
    """trimesh's page before its script, the script (three.js, and "$B64GLTF" for the mesh), and what follows."""
    template = trimesh.util.decompress(trimesh.resources.get_bytes("templates/viewer.zip"), file_type="zip")
    head, _, rest = template["viewer.html.template"].read().decode().partition("<script>")
    script, _, tail = rest.rpartition("</script>")
    return head, script, tail


def write_mp4(pictures: Iterable[np.ndarray], size: int, fps: int, path: Path) -> Path:
    """Square pictures (size, size, 3), uint8, as an H.264 video that browsers play, whole or not at all.

    Raises OSError that names the file where the encoder fails, or its video has fewer frames than it was given.
    """
    side = size + size % 2  # H.264 with yuv420p halves the colour's resolution: it wants even sides
    padding = ((0, side - size), (0, side - size), (0, 0))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{side}x{side}", "-r", str(fps), "-i", "-", "-an", "-vcodec", "libx264", "-crf", "15"]
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    given = 0

    def write(file: Path) -> None:
        nonlocal given
        with tempfile.TemporaryFile() as said:
            own = {"stdin": subprocess.PIPE, "stderr": said, "process_group": 0}  # not what Ctrl-C goes to
            with subprocess.Popen([*command, str(file)], **own) as encoder:
                try:
                    with suppress(BrokenPipeError), encoder.stdin:  # it ended early: its exit status says so
                        for picture in pictures:
                            encoder.stdin.write(np.pad(picture, padding, constant_values=255).tobytes())
                            given += 1
                except BaseException:
                    encoder.kill()
                    raise
            said.seek(0)
            reason = " ".join(said.read().decode(errors="replace").split())
        if code := encoder.returncode:
            reason = reason or (signal.strsignal(-code) if code < 0 else f"exit status {code}")
            raise OSError(f"{path}: the video cannot be written ({reason})")

    def check(file: Path) -> None:
        frames = imageio_ffmpeg.count_frames_and_secs(str(file))[0]
        if frames != given:
            raise OSError(f"{path}: the video has only {frames} of {given} frames; is there room on the disk?")

    return write_whole(path, write, check)


def write_gif(pictures: Iterable[np.ndarray], size: int, fps: int, path: Path) -> Path:
    """Pictures (size, size, 3), uint8, as a GIF that loops, whole or not at all. Raises OSError that names the file."""
    frames = [Image.fromarray(picture) for picture in pictures]
    # A GIF counts in hundredths of a second, and players slow down below two of them.
    duration = max(20, 10 * round(100 / fps))

    def write(file: Path) -> None:
        how = {"save_all": True, "duration": duration, "loop": 0, "optimize": False}
        frames[0].save(file, format="GIF", append_images=frames[1:], **how)

    def check(file: Path) -> None:
        with Image.open(file, formats=["GIF"]) as read:  # equal neighbours have become one frame that stays longer
            shown = sum(frame.convert("RGB").info["duration"] for frame in ImageSequence.Iterator(read))
        if shown != duration * len(frames):
            raise OSError(f"{path}: the GIF lasts {shown} ms in place of {duration * len(frames)}")

    return write_whole(path, write, check)
