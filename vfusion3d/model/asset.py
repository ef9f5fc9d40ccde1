"""What comes out: one reconstructed object, and its ways into the world.

Axes of files: OBJ and PLY are written as the project's world is, z up, the photographed side facing +x. GLB follows
glTF: y up, the photographed side facing +z, which is what viewers show first. Colours: OBJ and PLY hold 8-bit sRGB per
vertex; glTF wants linear light there, so a GLB holds that, in floats, and a viewer shows the colours of the renders.
"""

import base64
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
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
from trimesh.exchange.gltf import export_glb

from vfusion3d.cameras import default_intrinsics, orbit_cameras
from vfusion3d.data.images import to_bytes
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.progress import tqdm

MESH_SUFFIXES = (".glb", ".obj", ".ply")
VIDEO_SUFFIXES = (".mp4", ".gif")
FRAMES_AT_ONCE = 8
VIEWER_MESH_BYTES = 300_000  # of a GLB; the script around it takes 0.75 MB more
Z_UP_TO_GLTF = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # (x, y, z) -> (y, z, x)


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

    def mesh(self, resolution: int = 256, threshold: float = 1.0) -> trimesh.Trimesh:
        """The surface with vertex colours, z up, world units; made once for each pair of arguments.

        resolution: grid points along a side of [-1, 1]^3. threshold: density per world unit. Raises ValueError where
        the density never crosses it.
        """
        key = (resolution, threshold)
        if key not in self._meshes:
            self._meshes[key] = self.model.extract_mesh(self.planes, resolution=resolution, threshold=threshold)
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
        progress: bool = False,
    ) -> Path:
        """Write one turn around the object as .mp4 (H.264, plays everywhere) or .gif (loops), and return the path.

        elevation: of the camera, radians, by default the source camera's. Raises ValueError for another suffix.
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

    def _frames(self, cameras: Tensor, size: int, progress: bool) -> Iterator[np.ndarray]:
        with tqdm(total=len(cameras), desc="turntable", unit="frame", disable=not progress, leave=False) as bar:
            for some in cameras.split(FRAMES_AT_ONCE):
                for picture in to_bytes(self.render(some, size=size)):
                    yield picture
                    bar.update()

    def save(self, path: str | os.PathLike, resolution: int = 256, threshold: float = 1.0) -> Path:
        """Write the mesh with vertex colours as .glb (y up), .obj or .ply (z up), and return the path.

        resolution, threshold: as for `mesh`. Raises ValueError for another suffix, or where there is no surface.
        """
        path = Path(path)
        if path.suffix.lower() not in MESH_SUFFIXES:
            raise ValueError(f"{path}: a mesh is written as {', '.join(MESH_SUFFIXES)}, by the file's suffix")
        mesh = self.mesh(resolution, threshold)
        kind = path.suffix.lower()[1:]
        content = to_glb(mesh) if kind == "glb" else mesh.export(file_type=kind)
        content = content.encode() if isinstance(content, str) else content
        return write_whole(path, partial(Path.write_bytes, data=content))

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
        """A self-contained viewer as an <iframe>: the mesh at the largest resolution that keeps it under 1.2 MB."""
        for resolution in (80, 64, 48, 32, 16):
            content = to_glb(self.mesh(resolution), linear=False, viewer=True)
            if len(content) <= VIEWER_MESH_BYTES:
                break
        template = trimesh.util.decompress(trimesh.resources.get_bytes("templates/viewer.zip"), file_type="zip")
        page = template["viewer.html.template"].read().decode()
        page = page.replace("$B64GLTF", base64.b64encode(content).decode()).replace("&", "&amp;").replace('"', "&quot;")
        return f'<div><iframe srcdoc="{page}" width="100%" height="{height}" style="border:none"></iframe></div>'

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.views().save(buffer, format="PNG")
        return buffer.getvalue()


def to_glb(mesh: trimesh.Trimesh, linear: bool = True, viewer: bool = False) -> bytes:
    """A mesh with vertex colours, z up, as a glTF binary, y up.

    linear: colours in linear light, as glTF defines them; else the sRGB values, for the notebook's viewer, which does
    not convert. viewer: add the camera which that viewer starts from, and show colours as they are, without a lamp.
    """
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    if linear:
        colours = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    turned = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    turned.apply_transform(Z_UP_TO_GLTF)
    if viewer:
        turned.visual.vertex_colors = (colours * 255).round().astype(np.uint8)
    else:
        turned.vertex_attributes["_COLOR_0"] = colours.astype(np.float32)
    scene = trimesh.Scene({"object": turned})
    if viewer:
        scene.camera = trimesh.scene.Camera(resolution=(640, 480), fov=(48, 36), z_near=0.1, z_far=20)
        in_front = np.eye(4)  # of the photographed side, a little above and beside it
        in_front[:3] = orbit_cameras(1, elevation=0.35, distance=2.6, azimuth=0.5)[0].numpy()
        scene.camera_transform = Z_UP_TO_GLTF @ in_front
    return export_glb(scene, tree_postprocessor=_unlit if viewer else _standard_colours)


def _standard_colours(tree: dict) -> None:
    """trimesh writes float attributes only under a name of the application's own: give this one its glTF name."""
    for shape in tree["meshes"]:
        for primitive in shape["primitives"]:
            primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_COLOR_0")


def _unlit(tree: dict) -> None:
    tree["materials"] = [{"extensions": {"KHR_materials_unlit": {}}}]
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    for shape in tree["meshes"]:
        for primitive in shape["primitives"]:
            primitive["material"] = 0


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
