"""Methods that take part through files: a folder of their rendered views, and not a line of their code.

    items/image_to_3d/captions.csv         what to reconstruct: KEY.png beside it, written by `export_items`
    methods/image_to_3d/LGM/KEY.mp4        a full turn as a video (.mp4, .webm, .mov, .mkv, .gif)
    methods/image_to_3d/OpenLRM/KEY/*.png  or as pictures, in the order of the numbers in their names

Whatever program made them, at whatever size, frame rate and number of frames: frames are brought onto white, from
whatever colour their rims share, and to one size, and the turn is taken from the frame on that looks most like the
input. A file that cannot be read to its end is an error and never a worse score.
"""

import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from vfusion3d.data.images import resize, to_bytes, uniform_frames
from vfusion3d.evaluation.single_images import ORBIT_VIEWS, Method
from vfusion3d.foundations.background_removal import ImageError
from vfusion3d.foundations.captioner import Captioner
from vfusion3d.model.asset import write_mp4
from vfusion3d.model.preprocess import frame_whole, load_image, prepare
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.pictures import PICTURE_SUFFIXES
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.reading import read_table

VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
TURN_FRAMES = 32  # of the turns that we write
TURN_FPS = 16
COMPARED = 32  # pixels a side at which frames are compared with the input
STARTS = 60  # frames, at equal distances, among which the one is looked for with which a turn begins
SAME_COLOUR = 24  # of 255: what compression does to a background
SHARED = 0.9  # of the rims' pixels have the background's colour, where there is one
SMALLEST_VIDEO = 128  # pixels: smaller frames are enlarged, for H.264 stores colour at half of the resolution


class MethodFolderError(ValueError):
    """A method's folder that cannot be used; the message names the file or the item and what would be right."""


@dataclass(frozen=True, eq=False)
class MethodFolder(Mapping[str, Tensor]):
    """The turns that lie in one method's folder, read when they are asked for: key -> views (V, 3, size, size)."""

    folder: Path
    files: dict[str, Path] = field(repr=False)  # a video, or a folder of pictures
    size: int
    views: int
    inputs: Mapping[str, Float[Tensor, "3 side side"]] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> Float[Tensor, "views 3 size size"]:
        return read_turn(self.files[key], self.size, self.views, self.inputs.get(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def method_folders(
    folder: str | Path,
    keys: Sequence[str],
    *,
    size: int,
    views: int = ORBIT_VIEWS,
    images: Float[Tensor, "n 3 side side"] | None = None,
) -> dict[str, MethodFolder]:
    """The methods that have a folder in `folder`, by name, for `evaluate_single_images`; none where it does not exist.

    keys: the items; images: their pictures, with which turns begin. size: pixels of the views. views: so many frames of
    each turn, at equal distances, or all where there are fewer. Warns of items that are none of ours, such as misspelt
    ones. Raises MethodFolderError that names every item for which a method has nothing; what is in a file shows when it
    is read.
    """
    folder = Path(folder)
    methods: dict[str, MethodFolder] = {}
    inputs = {} if images is None else dict(zip(keys, images, strict=True))
    problems: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or path.name.startswith("."):
            continue
        found = _turns_in(path)
        if unknown := sorted(found.keys() - set(keys)):
            warnings.warn(f"{path}: no item is called {', '.join(unknown)}, so they are left out", stacklevel=2)
        if missing := [key for key in keys if key not in found]:
            problems.append(f"{path} has no views of {', '.join(missing)}: add {missing[0]}.mp4 or {missing[0]}/*.png")
        methods[path.name] = MethodFolder(path, {key: found[key] for key in keys if key in found}, size, views, inputs)
    if problems:
        raise MethodFolderError("; ".join(problems))
    return methods


def read_turn(
    path: Path, size: int, views: int, start: Float[Tensor, "3 side side"] | None = None
) -> Float[Tensor, "views 3 size size"]:
    """Up to `views` frames, at equal distances, of a video or of a folder of pictures: in [0, 1], on white, square.

    start: the picture that the first of them is to look like; by default the first frame is. A background of one colour
    becomes white. What is not square is shown whole, with white beside it. Raises MethodFolderError for what cannot be
    read to its end.
    """
    if path.is_dir():
        return _read_pictures(path, path, size, views, start)
    with tempfile.TemporaryDirectory() as frames:
        _extract(path, Path(frames))
        return _read_pictures(Path(frames), path, size, views, start)


def item_keys(captions: Sequence[str]) -> list[str]:
    """Short names for files, one a caption: its number from 1 and its words ("07-a-red-mug")."""
    words = ["-".join(re.findall(r"[a-z0-9]+", caption.lower()))[:60].rstrip("-") for caption in captions]
    return [f"{number:02d}-{text}".rstrip("-") for number, text in enumerate(words, start=1)]


def own_pictures(
    folder: str | Path, size: int, describe: Captioner, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3 size size"], list[str]]:
    """The pictures of a folder as a model sees them (`preprocess.prepare`), by their names, and a caption of each.

    A caption is what NAME.txt beside the picture says, or captions.csv (key, caption), or the captioner (describe,
    generator); "" where that is a stand-in, which cannot see. Raises MethodFolderError where there is no folder or no
    picture in it, ImageError for a picture that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MethodFolderError(f"{folder}: no such folder; name one that holds pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != ".")
    if not paths:
        raise MethodFolderError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    listed = folder / "captions.csv"
    known = read_table(listed, {"key": str, "caption": str}) if listed.exists() else {"key": (), "caption": ()}
    of_key = dict(zip(known["key"], known["caption"], strict=True))
    images, captions = [], []
    for path in tqdm(paths, desc=f"pictures of {folder.name}", unit="picture"):
        images.append(prepare(path, size).image)
        beside = path.with_suffix(".txt")
        said = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else of_key.get(path.stem, "")
        if not said.strip():
            with suppress(ValueError):  # a stand-in, which needs to be told
                said = describe(images[-1][None], generator)
        captions.append(" ".join(said.split()))
    return torch.stack(images), captions


def export_items(
    folder: str | Path, images: Float[Tensor, "n 3 side side"], captions: Sequence[str], keys: Sequence[str]
) -> Path:
    """Write what is to be reconstructed: KEY.png (on white) for every item and captions.csv (key, caption).

    Pictures of items that captions.csv named before, and which are none any more, are removed. Returns the folder.
    """
    folder = Path(folder)
    listed = folder / "captions.csv"
    before: set[str] = set()
    with suppress(FileNotFoundError, ValueError, KeyError):
        before = {key for key in read_table(listed, {"key": str})["key"] if key and Path(key).name == key}
    for key, picture in zip(keys, to_bytes(images), strict=True):
        write_whole(folder / f"{key}.png", lambda path, picture=picture: Image.fromarray(picture).save(path, "PNG"))
    for key in before - set(keys):
        (folder / f"{key}.png").unlink(missing_ok=True)
    table = pd.DataFrame({"key": keys, "caption": captions})
    write_whole(listed, lambda path: table.to_csv(path, index=False, lineterminator="\n"))
    return folder


def render_turns(
    method: Method,
    images: Float[Tensor, "n 3 side side"],
    keys: Sequence[str],
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Float[Tensor, "views 3 size size"]]:
    """What a method makes of every item, written as KEY.mp4 into `folder` (such as `layout.rendered_views`), too.

    The result takes part in `evaluate_single_images` as the method would, without rendering anything twice; the videos
    are for people, and can be sent to others as this method's folder. `around` and `orbit_of` with `TURN_FRAMES` views
    give a turn of two seconds.
    """
    folder = Path(folder)
    turns: dict[str, Tensor] = {}
    for image, key in tqdm(list(zip(images, keys, strict=True)), desc=f"turns of {folder.name}", unit="turn"):
        turns[key] = method(image[None].to(device)).float().cpu()
        write_turn(turns[key], folder / f"{key}.mp4")
    return turns


def write_turn(views: Float[Tensor, "views 3 size size"], path: str | Path) -> Path:
    """Views in [0, 1] as an .mp4 that browsers play (H.264), 16 frames a second. Small ones are enlarged."""
    if len(views) == 0:
        raise ValueError(f"{path}: a video needs at least one view")
    larger = -(-SMALLEST_VIDEO // views.shape[-1])
    if larger > 1:
        views = interpolate(views, scale_factor=larger, mode="bicubic", antialias=False)
    frames = to_bytes(views)
    return write_mp4(frames, frames.shape[1], TURN_FPS, Path(path))


def _turns_in(folder: Path) -> dict[str, Path]:
    """The video or the folder of pictures of every item in a method's folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in VIDEOS):
            continue
        key = path.name if path.is_dir() else path.stem
        if key in found:
            raise MethodFolderError(f"{folder} has both {found[key].name} and {path.name}: keep one of them")
        found[key] = path
    return found


def _extract(video: Path, folder: Path) -> None:
    """Every frame of a video as a PNG. Here ffmpeg stops at the first fault, which it would else paint over."""
    if video.stat().st_size == 0:
        raise MethodFolderError(f"{video} is empty (0 bytes): export it again")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror", "-i", str(video)]
    command += ["-fps_mode", "passthrough", "-pix_fmt", "rgba", "-compression_level", "1", str(folder / "%06d.png")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    frames = len(list(folder.iterdir()))
    if done.returncode or not frames:
        reason = (done.stderr.strip().splitlines() or ["it has no pictures"])[0]
        reason = re.sub(r"^\[[^]]*\] ", "", reason)
        read = f"only {frames} frames can be read" if frames else "cannot be read"
        raise MethodFolderError(f"{video} {read} ({reason}): it is damaged or cut off, export it again")


def _read_pictures(
    folder: Path, named: Path, size: int, views: int, start: Tensor | None
) -> Float[Tensor, "views 3 size size"]:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.name[0] != "."]
    if not paths:
        raise MethodFolderError(f"{named} holds no pictures ({', '.join(PICTURES)})")
    paths.sort(key=lambda path: [(not part.isdigit(), part.zfill(12)) for part in re.split(r"(\d+)", path.stem)])
    chosen = uniform_frames(len(paths), min(views, len(paths)))
    try:
        few = [load_image(paths[number]) for number in chosen]
        background = shared_background(few)
        first = 0
        if start is not None:
            wanted = _close_up(start)
            asked = uniform_frames(len(paths), min(STARTS, len(paths)))
            framed = (frame_whole(onto_white(load_image(paths[i]), background), COMPARED)[0] for i in asked)
            first = asked[int(torch.stack([(_close_up(one) - wanted).square().mean() for one in framed]).argmin())]
        turned = few if first == 0 else [load_image(paths[(first + number) % len(paths)]) for number in chosen]
        return torch.stack([frame_whole(onto_white(picture, background), size)[0] for picture in turned])
    except ImageError as error:
        raise MethodFolderError(f"{named}: {error}") from error


def shared_background(pictures: Sequence[Image.Image]) -> np.ndarray | None:
    """The colour (3,) in [0, 255] that the rims of all pictures (RGBA) share; None where that is white or none.

    Nor is it one where nothing stands before it.
    """
    everything = [np.asarray(picture.convert("RGBA"), np.float32) for picture in pictures]
    rim = np.concatenate([side for p in everything for side in (p[0], p[-1], p[:, 0], p[:, -1])])
    colour = np.median(rim[:, :3], axis=0)
    alike = (np.abs(rim[:, :3] - colour).max(axis=1) <= SAME_COLOUR) & (rim[:, 3] == 255)
    if alike.mean() <= SHARED or colour.min() >= 255 - SAME_COLOUR:
        return None
    return colour if any(np.abs(p[..., :3] - colour).max() > SAME_COLOUR for p in everything) else None


def onto_white(picture: Image.Image, background: np.ndarray | None) -> Image.Image:
    """The picture with what hangs together with its rim and has the background's colour in white, softly at the edge.

    Of an object, parts of that very colour which reach the background are lost: pictures with transparency keep them.
    """
    if background is None:
        return picture
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    unlike = np.abs(pixels - background).max(axis=-1)
    near = unlike <= SAME_COLOUR
    rim = np.ones_like(near)
    rim[1:-1, 1:-1] = False
    solid = ~ndimage.binary_propagation(rim & near, mask=near)
    inside = ndimage.binary_erosion(solid, np.ones((3, 3)), border_value=1)
    further_in = ndimage.grey_dilation(unlike * inside, (5, 5))  # how unlike the object is a little further in
    soft = np.divide(unlike, further_in, out=np.ones_like(unlike), where=further_in > 0).clip(0, 1)
    alpha = np.where(inside, 1, solid * soft)[..., None]
    whitened = (pixels + (1 - alpha) * (255 - background)).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(whitened).convert("RGBA")


def _close_up(picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 small small"]:
    """What is not white, as large as it goes, so that two framings of a thing can be compared."""
    rows, columns = ((1 - picture).amax(0) > 0.06).nonzero().unbind(-1) if (picture < 0.94).any() else ([0], [0])
    top, left = int(min(rows)), int(min(columns))
    side = max(int(max(rows)) - top, int(max(columns)) - left) + 1
    square = torch.ones(3, side, side)
    cut = picture[:, top : top + side, left : left + side]
    square[:, : cut.shape[1], : cut.shape[2]] = cut
    return resize(square[None], COMPARED)[0]
