"""From whatever a person has to what the model wants: one object, centred, on white (section 4, "how it is used").

    load_image -> cut_out -> recentre

Loading never decodes a picture it is going to refuse, and says in one line what is wrong with a file and what to do.
Cutting out is a role of its own (`foundations/background_removal.py`). All blending and resampling is done on
premultiplied colours, so that what lies behind transparent pixels never leaks into an edge.
"""

import os
import warnings
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageOps
from torch import Tensor

from vfusion3d.data.images import FORMATS
from vfusion3d.foundations.background_removal import MIN_SIDE, ImageError, cut_out

Box = tuple[float, float, float, float]  # left, top, right, bottom
ImageSource = str | os.PathLike | bytes | Image.Image | ndarray | Tensor
ORIENTATION = 0x0112  # in EXIF
DEPTHS = (8, 10, 12, 14, 16)  # bits of what 16-bit files hold
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_PIXELS = 100_000_000  # refused from the header: a small file can decode to any size


@dataclass(frozen=True)
class Prepared:
    """A model's input and how it came about.

    image: (3, size, size) in [0, 1] on white. box: left, top, right, bottom of the frame, in the cut-out's pixels.
    background: how the object was cut out. notices: what a person may want to know of that, a line each.
    """

    image: Float[Tensor, "3 size size"]
    box: Box
    background: str
    notices: tuple[str, ...] = ()


def prepare(
    source: ImageSource,
    size: int,
    background: str = "auto",
    border: float = 0.2,
    box: Box | None = None,
    opacity: float | None = None,
) -> Prepared:
    """Load any picture, cut the object out and recentre it on white, `size` pixels square.

    background: see `cut_out`; "keep" also keeps the framing. border: share of the side left free around the object.
    box, opacity: where the object lies (shares of the picture's sides), and from which opacity a pixel is its own: see
    `cut_out`, which calls that a threshold. Raises ImageError.
    """
    picture, notices = _load(source)
    cut = cut_out(picture, background, name=source_name(source), box=box, threshold=opacity)
    image, box = frame_whole(cut.rgba, size) if background == "keep" else recentre(cut.rgba, size, border)
    return Prepared(image, box, cut.background, (*notices, *cut.notices))


# ---------------------------------------------------------------------------------------------------------- loading


def load_image(source: ImageSource) -> Image.Image:
    """Read a picture as 8-bit RGBA, upright.

    source: a path; the bytes of a file; a PIL image; an array (H, W) or (H, W, 3|4), uint8, uint16 or float in [0, 1];
    a tensor (1|3|4, H, W), uint8 or float in [0, 1]. EXIF rotation is applied; grey, palette, 16-bit and CMYK pictures
    are converted, stretched where they hold fewer bits; of an animation the first frame is read. HEIC pictures need the
    package pillow-heif. Raises ImageError.
    """
    return _load(source)[0]


def _load(source: ImageSource) -> tuple[Image.Image, list[str]]:
    """The picture, and what is to be said of how it was read."""
    name = source_name(source)
    if isinstance(source, Tensor):
        image = _from_tensor(source, name)
    elif isinstance(source, ndarray):
        image = _from_array(source, name)
    elif isinstance(source, Image.Image):
        image = source
    elif isinstance(source, bytes | bytearray | str | os.PathLike):
        return _read(source, name)
    else:
        raise ImageError(f"{name}: pass a path, bytes, a PIL image, an array or a tensor")
    return _to_rgba(image, name)


def source_name(source: ImageSource) -> str:
    """How messages call a picture: its path, or what kind of thing it is."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image {source.width}x{source.height}>"
    shape = f" {tuple(source.shape)}" if hasattr(source, "shape") else ""
    return f"<{type(source).__name__}{shape}>"


def _read(source: str | os.PathLike | bytes, name: str) -> tuple[Image.Image, list[str]]:
    if isinstance(source, bytes | bytearray):
        file = BytesIO(source)
        length = len(source)
    else:
        if name.startswith(("http://", "https://", "ftp://")):
            raise ImageError(f"{name}: is a web address; download the picture and pass its file")
        file = Path(os.path.expanduser(name))
        if file.is_dir():
            raise ImageError(f"{name}: is a folder; pass a picture in it")
        if not file.is_file():
            raise ImageError(f"{name}: no such file; check the path")
        length = file.stat().st_size
    if length == 0:
        raise ImageError(f"{name}: is empty (0 bytes); download or export it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(_too_many_pixels(name)) from error
    except Image.UnidentifiedImageError as error:
        if _is_heif(file):
            raise ImageError(f"{name}: is a HEIC picture; pip install pillow-heif, or save it as JPEG") from error
        raise ImageError(f"{name}: is not a picture this can read; save it as PNG or JPEG") from error
    except Exception as error:
        raise ImageError(f"{name}: cannot be opened ({_line(error)}); save it as PNG or JPEG") from error
    with image:
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # Pillow keeps the upper half of them
        rgba, notices = _to_rgba(image, name)
        orientation = image.getexif().get(ORIENTATION, 1)  # not before: it decodes a PNG
    if image.format == "PNG":
        _check_png(file, name)
    if deep and not notices and max(high for _, high in rgba.convert("RGB").getextrema()) < 64:
        return _deep_colours(file, name, orientation)
    return rgba, notices


def _check_png(file: Path | BytesIO, name: str) -> None:
    """Raise ImageError where a checksum is wrong: Pillow decodes a damaged PNG without a word, to other pixels."""
    try:
        with Image.open(file, formats=["PNG"]) as again:
            again.verify()
    except Exception as error:
        raise ImageError(f"{name}: is damaged or cut short ({_line(error)}); download or export it again") from error


def _to_rgba(image: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_many_pixels(name, image.size))
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{name}: is {image.width}x{image.height} pixels, too small to show an object; "
            f"each side needs {MIN_SIDE} or more"
        )
    try:
        upright, notices = ImageOps.exif_transpose(image), []
        if upright.mode.startswith("I") or upright.mode == "F":
            grey, notices = _to_8_bit(np.asarray(upright))
            upright = Image.fromarray(grey)
        if upright.mode == "LAB":
            upright = _lab_to_rgb(upright)
        return upright.convert("RGBA"), notices
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise ImageError(f"{name}: is damaged or cut short ({_line(error)}); download or export it again") from error


def _to_8_bit(values: ndarray) -> tuple[ndarray, list[str]]:
    """16-bit and float values to 8 bit, and what is to be said of it.

    Float pictures are in [0, 1] or in [0, 255], by their largest value. Cameras and scanners store 10, 12 or 14 bits in
    files of 16, which would be nearly black: the fewest bits that hold the largest value are taken.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
        top, bits = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0, 16
    else:
        bits = next(bits for bits in DEPTHS if values.max() < 1 << bits or bits == 16)
        top = float((1 << bits) - 1)
    notices = [] if bits == 16 else [f"its 16-bit file holds values of {bits} bits, which are stretched"]
    return (np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8), notices


def _deep_colours(file: Path | BytesIO, name: str, orientation: int) -> tuple[Image.Image, list[str]]:
    """A colour picture of 16 bits whose upper halves are nearly black, by OpenCV, which reads them whole."""
    content = file.getvalue() if isinstance(file, BytesIO) else file.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise ImageError(f"{name}: is damaged or cut short; download or export it again")
    colours, notices = _to_8_bit(pixels[..., 2::-1])
    opacity = [_to_8_bit(pixels[..., 3:])[0]] if pixels.shape[2] == 4 else []
    picture = Image.fromarray(np.concatenate([colours, *opacity], axis=-1))
    picture.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(picture).convert("RGBA"), notices


def _is_heif(file: Path | BytesIO) -> bool:
    with BytesIO(file.getvalue()) if isinstance(file, BytesIO) else file.open("rb") as opened:
        start = opened.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are read: HEIC where the package for it is there."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return ImageCms.applyTransform(image, to_srgb)


def _from_tensor(tensor: Tensor, name: str) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(f"{name}: a tensor must be (1|3|4, H, W); pass one picture, channels first")
    array = tensor.detach().cpu()
    array = (array.float() if array.is_floating_point() else array).permute(1, 2, 0).numpy()
    return _from_array(array, name)


def _from_array(array: ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or array.size == 0:
        raise ImageError(f"{name}: an array must be (H, W), (H, W, 3) or (H, W, 4); channels come last")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError(f"{name}: holds NaN or infinite values; replace them first")
        if low < -0.01 or high > 1.01:
            raise ImageError(f"{name}: float values must be in [0, 1], not [{low:.3g}, {high:.3g}]; divide them")
        array = (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name}: has dtype {array.dtype}; convert it to uint8, uint16 or float in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array))


def _too_many_pixels(name: str, size: tuple[int, int] | None = None) -> str:
    what = f"{size[0]}x{size[1]} pixels are" if size else "has"
    return f"{name}: {what} more than {MAX_PIXELS // 10**6} megapixels; reduce it first (1024 pixels a side are plenty)"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---------------------------------------------------------------------------------------------------------- framing


def recentre(rgba: Image.Image, size: int, border: float = 0.2) -> tuple[Float[Tensor, "3 size size"], Box]:
    """Frame the object: centred, its larger side taking `1 - border` of the frame, on white, `size` pixels square.

    Returns the picture in [0, 1], and the frame's left, top, right, bottom in pixels of `rgba` (it may reach outside).
    The object is what is more than half opaque. Raises ImageError where nothing is.
    """
    if not 0 <= border < 1:
        raise ValueError(f"border={border}: must be in [0, 1), the share of the frame's side that stays free")
    solid = np.asarray(rgba.getchannel("A")) > 127
    if not solid.any():
        raise ImageError("nothing in the cut-out is opaque: there is no object to centre")
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    half = max(bottom - top, right - left) / (1 - border) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return _frame(rgba, (float(x - half), float(y - half), float(x + half), float(y + half)), size)


def frame_whole(rgba: Image.Image, size: int) -> tuple[Float[Tensor, "3 size size"], Box]:
    """The whole picture in the smallest square around it, on white: for pictures that are framed already."""
    half = max(rgba.size) / 2
    x, y = rgba.width / 2, rgba.height / 2
    return _frame(rgba, (x - half, y - half, x + half, y + half), size)


def _frame(rgba: Image.Image, box: Box, size: int) -> tuple[Tensor, Box]:
    """Resample a box, which may reach over the picture's edge, onto white: to a fraction of a pixel, antialiased."""
    pixels = np.asarray(rgba.convert("RGBA"), dtype=np.float32) / 255
    alpha = pixels[..., 3:]
    pixels = np.concatenate([pixels[..., :3] * alpha, alpha], axis=-1)
    margin = 2 + 3 * max(1.0, (box[2] - box[0]) / size)  # what the filter reads beyond the box
    left, top = (int(np.floor(edge - margin)) for edge in box[:2])
    right, bottom = (int(np.ceil(edge + margin)) for edge in box[2:])
    padded = np.zeros((bottom - top, right - left, 4), np.float32)
    height, width = pixels.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    padded[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    shrinking = box[2] - box[0] > size
    kernel = Image.Resampling.HAMMING if shrinking else Image.Resampling.BICUBIC
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(padded[..., c])).resize((size, size), kernel, box=inner))
        for c in range(4)
    ]
    premultiplied = torch.from_numpy(np.stack(channels))
    return (premultiplied[:3] + 1 - premultiplied[3:].clamp(0, 1)).clamp(0, 1), box
