"""From whatever a person has to what the model wants: one object, centred, on white (section 4, "how it is used").

    load_image -> cut_out -> recentre

Loading never decodes a picture it is going to refuse, and says in one line what is wrong with a file and what to do.
The background goes by the first of these that applies: the picture's own alpha channel; one plain colour all around;
rembg's network, when its weights are already on this machine (nothing is ever downloaded); OpenCV's GrabCut, which
stands in for it and starts from a guess of what stands out. All blending and resampling is done on premultiplied
colours, so that what lies behind transparent pixels never leaks into an edge.
"""

import os
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt
from skimage.graph import MCP_Geometric
from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom
ImageSource = str | os.PathLike | bytes | Image.Image | ndarray | Tensor
BACKGROUNDS = ("auto", "alpha", "plain", "grabcut", "rembg", "keep")
MAX_PIXELS = 100_000_000  # refused from the header: a small file can decode to any size
MIN_SIDE = 8
MIN_OBJECT, MAX_OBJECT = 0.005, 0.95  # shares of the picture between which a mask is believed to be an object
WORK_SIDE = 1024  # larger pictures are reduced first: no model input is larger than half of this
GRABCUT_SIDE, SALIENCY_SIDE = 384, 128
REMBG_MODELS = {  # side of the input, mean and standard deviation it is normalised with
    "isnet-general-use": (1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
    "u2net": (320, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class ImageError(ValueError):
    """A picture that cannot be used: the message names it, the reason and the fix, in one line."""


@dataclass(frozen=True)
class CutOut:
    """An object without its background. rgba: straight alpha. background: which of `BACKGROUNDS` found it."""

    rgba: Image.Image
    background: str


@dataclass(frozen=True)
class Prepared:
    """A model's input and how it came about.

    image: (3, size, size) in [0, 1] on white. box: left, top, right, bottom of the frame, in the cut-out's pixels.
    background: how the object was cut out.
    """

    image: Float[Tensor, "3 size size"]
    box: Box
    background: str


def prepare(source: ImageSource, size: int, background: str = "auto", border: float = 0.2) -> Prepared:
    """Load any picture, cut the object out and recentre it on white, `size` pixels square.

    background: see `cut_out`; "keep" also keeps the framing. border: share of the side left free around the object.
    Raises ImageError.
    """
    cut = cut_out(load_image(source), background, name=source_name(source))
    image, box = frame_whole(cut.rgba, size) if background == "keep" else recentre(cut.rgba, size, border)
    return Prepared(image, box, cut.background)


def prepare_image(
    source: ImageSource, size: int, background: str = "auto", border: float = 0.2
) -> Float[Tensor, "3 size size"]:
    """The picture alone of what `prepare` returns."""
    return prepare(source, size, background, border).image


# ---------------------------------------------------------------------------------------------------------- loading


def load_image(source: ImageSource) -> Image.Image:
    """Read a picture as 8-bit RGBA, upright.

    source: a path; the bytes of a file; a PIL image; an array (H, W) or (H, W, 3|4), uint8, uint16 or float in [0, 1];
    a tensor (1|3|4, H, W), uint8 or float in [0, 1]. EXIF rotation is applied; grey, palette, 16-bit and CMYK pictures
    are converted; of an animation the first frame is read. Raises ImageError.
    """
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


def _read(source: str | os.PathLike | bytes, name: str) -> Image.Image:
    if isinstance(source, bytes | bytearray):
        file, length = BytesIO(source), len(source)
    else:
        if name.startswith(("http://", "https://", "ftp://")):
            raise ImageError(f"{name}: is a web address; download the picture and pass its file")
        file = Path(name).expanduser()
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
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_many_pixels(name)) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not a picture this can read; save it as PNG or JPEG") from error
    except Exception as error:
        raise ImageError(f"{name}: cannot be opened ({_line(error)}); save it as PNG or JPEG") from error
    with image:
        return _to_rgba(image, name)


def _to_rgba(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_many_pixels(name, image.size))
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{name}: is {image.width}x{image.height} pixels, too small to show an object; "
            f"each side needs {MIN_SIDE} or more"
        )
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            upright = Image.fromarray(_deep_to_8_bit(np.asarray(upright)))
        if upright.mode == "LAB":
            upright = _lab_to_rgb(upright)
        return upright.convert("RGBA")
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise ImageError(f"{name}: is damaged or cut short ({_line(error)}); download or export it again") from error


def _deep_to_8_bit(grey: ndarray) -> ndarray:
    """16-bit and float grey to 8 bit. Float pictures are in [0, 1] or in [0, 255], by their largest value."""
    if grey.dtype.kind == "f":
        grey = np.nan_to_num(grey, nan=0.0, posinf=1.0, neginf=0.0)
        top = 1.0 if grey.max() <= 1 else 255.0 if grey.max() <= 255 else 65535.0
    else:
        top = 65535.0
    return (np.clip(grey / top, 0, 1) * 255 + 0.5).astype(np.uint8)


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


# ------------------------------------------------------------------------------------------------------- background


def cut_out(image: Image.Image, background: str = "auto", name: str = "the picture") -> CutOut:
    """Take the object out of its background.

    background: "alpha" (the picture's own transparency), "plain" (one colour all around), "rembg" (needs its weights on
    this machine), "grabcut", "keep" (everything stays), or "auto": the first of these that applies, in this order.
    Pictures over 1024 pixels come back reduced. Raises ImageError where no object is found.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background={background!r}: choose one of {', '.join(BACKGROUNDS)}")
    rgba = _reduce(image.convert("RGBA"))
    if background == "keep":
        return CutOut(rgba, "keep")
    pixels = np.asarray(rgba)
    rgb, alpha = pixels[..., :3], pixels[..., 3]

    transparent = float((alpha < 13).mean())
    if background == "alpha" and transparent == 0:
        raise ImageError(f'{name}: has no transparent pixels; use background="auto"')
    if background == "alpha" or (background == "auto" and 0.01 < transparent < 1):
        _check_mask(alpha / 255, name, largest=1.0)
        return CutOut(rgba, "alpha")

    plain = _plain_colour(rgb) if background in ("auto", "plain") else None
    if background == "plain" and plain is None:
        raise ImageError(f'{name}: has more than one colour along its edges; use background="auto"')
    if plain is not None:
        mask, method = _plain_mask(rgb, plain), "plain"
    elif background == "rembg" or (background == "auto" and rembg_weights()):
        soft = _rembg_alpha(rgb, name)
        _check_mask(soft, name)
        return CutOut(_with_alpha(rgb / np.float32(255), soft), "rembg")
    else:
        mask, method = _grabcut_mask(rgb), "grabcut"
    _check_mask(mask, name)
    if plain is not None and plain.min() >= 250:  # on white already: its edges are right as they are
        return CutOut(_with_alpha(rgb / np.float32(255), mask.astype(np.float32)), method)
    softened = _soften(rgb / np.float32(255), mask, radius=max(1, round(max(mask.shape) / 400)))
    return CutOut(_with_alpha(*softened), method)


def rembg_weights() -> tuple[str, Path] | None:
    """The first of rembg's models whose weights are already on this machine, and their file."""
    home = Path.home()
    folders = [os.environ.get("U2NET_HOME"), os.environ.get("REMBG_HOME"), home / ".rembg", home / ".u2net"]
    if data := os.environ.get("XDG_DATA_HOME"):
        folders += [Path(data) / "rembg", Path(data) / ".u2net"]
    for model in REMBG_MODELS:
        for folder in filter(None, folders):
            for file in (Path(folder) / "models" / model / f"{model}.onnx", Path(folder) / f"{model}.onnx"):
                if file.is_file():
                    return model, file
    return None


def _rembg_alpha(rgb: ndarray, name: str) -> ndarray:
    found = rembg_weights()
    if found is None:
        raise ImageError(
            f"{name}: rembg's weights are not on this machine; put isnet-general-use.onnx into ~/.u2net "
            'or use background="grabcut"'
        )
    import onnxruntime

    model, weights = found
    side, mean, std = REMBG_MODELS[model]
    small = np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
    small = (small / max(small.max(), 1) - np.float32(mean)) / np.float32(std)
    network = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    (values, *_) = network.run(None, {network.get_inputs()[0].name: small.transpose(2, 0, 1)[None]})
    values = values[0, 0]
    values = (values - values.min()) / max(np.ptp(values), 1e-6)
    return cv2.resize(values, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


def _plain_colour(rgb: ndarray) -> ndarray | None:
    """The colour all around the picture, or None. An object may touch a tenth of the edge."""
    rim = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    colour = np.median(rim, axis=0)
    return colour if (np.abs(rim - colour).max(-1) <= 5).mean() >= 0.9 else None


def _plain_mask(rgb: ndarray, colour: ndarray) -> Bool[ndarray, "height width"]:
    """What differs from the background's colour. Holes under 0.05% of the picture are closed: they are shine."""
    mask = np.abs(rgb.astype(np.float32) - colour).max(-1) > 8
    mask = _without_specks(mask, share_of_largest=0.01)
    return ~_without_specks(~mask, share_of_picture=0.0005)


def _grabcut_mask(rgb: ndarray) -> Bool[ndarray, "height width"]:
    """GrabCut from four certainties of what stands out; rembg's stand-in."""
    stands_out = _saliency(_resize(rgb, SALIENCY_SIDE))
    level = np.clip(255 * stands_out, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(level, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    small = _resize(rgb, GRABCUT_SIDE)
    level = cv2.resize(level.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    guess = np.full(level.shape, cv2.GC_BGD, np.uint8)
    guess[level > 0.15 * threshold] = cv2.GC_PR_BGD
    guess[level > 0.7 * threshold] = cv2.GC_PR_FGD
    guess[level > 1.9 * threshold] = cv2.GC_FGD
    if not (guess & 1).any() or (guess & 1).all():
        return np.zeros(rgb.shape[:2], bool)
    cv2.setRNGSeed(0)  # GrabCut's clustering draws from OpenCV's generator: the same picture gets the same cut
    guess, _, _ = cv2.grabCut(small, guess, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    mask = _without_specks((guess & 1).astype(bool), share_of_largest=0.05)
    mask = ~_without_specks(~mask, share_of_picture=0.0005)
    return cv2.resize(mask.astype(np.float32), rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def _saliency(rgb: ndarray) -> Float[ndarray, "height width"]:
    """What stands out, about [0, 1]: far from the picture's edge by the cheapest path over colour steps, and unlike a
    smooth background (a quadratic fitted to the rim); a little more so in the middle."""
    lab = cv2.cvtColor(cv2.medianBlur(rgb, 5).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    height, width = lab.shape[:2]
    steps = np.sqrt(sum((np.gradient(lab, axis=axis) ** 2).sum(-1) for axis in (0, 1)))
    edge = np.pad(np.zeros((height - 2, width - 2), bool), 1, constant_values=True)
    enclosed, _ = MCP_Geometric(np.maximum(steps - 1, 0) + 0.01).find_costs(np.argwhere(edge))

    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    rim = np.ones((height, width), bool)
    thick = max(2, min(height, width) // 20)
    rim[thick:-thick, thick:-thick] = False
    background = rim
    for _ in range(3):  # refitted without what of the object touches the rim
        fit, *_ = np.linalg.lstsq(basis[background], lab[background], rcond=None)
        unlike = np.linalg.norm(lab - basis @ fit, axis=-1)
        background = rim & (unlike < 2 * np.median(unlike[rim]) + 2)
    trust = 1 / (1 + np.sqrt((unlike[rim] ** 2).mean()) / 10)  # little, where the rim is not smooth

    if max(np.percentile(enclosed, 98), np.percentile(unlike, 98)) < 3:  # CIE Lab: hardly visible
        return np.zeros((height, width))
    middle = np.exp(-(x**2 + y**2) / (2 * 0.6**2))
    both = _to_unit(enclosed) + trust * _to_unit(unlike)
    both = both * (0.5 + 0.5 * middle)
    return np.clip(both / max(np.percentile(both, 99), 1e-6), 0, 1)


def _to_unit(values: ndarray) -> ndarray:
    return np.clip(values / max(np.percentile(values, 98), 1e-6), 0, 1)


def _soften(rgb: ndarray, mask: ndarray, radius: int) -> tuple[ndarray, ndarray]:
    """A hard cut to soft edges without a fringe of the background's colour.

    Near the cut a pixel is a mixture of the nearest certain object colour F and the nearest certain background colour
    B: its alpha is its position on the line from B to F, and its colour becomes F.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    inside = cv2.erode(mask.astype(np.uint8), kernel).astype(bool)
    outside = ~cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), radius / 2)
    if not inside.any() or not outside.any():
        return rgb, alpha
    distance, to_object = distance_transform_edt(~inside, return_indices=True)
    to_background = distance_transform_edt(~outside, return_distances=False, return_indices=True)
    near = ~(inside | outside) & (distance <= 2 * radius + 1)  # not where a part is thinner than the band
    front, back = rgb[tuple(to_object)], rgb[tuple(to_background)]
    line = front - back
    length = (line**2).sum(-1)
    position = np.clip(((rgb - back) * line).sum(-1) / np.maximum(length, 1e-6), 0, 1)
    alpha = np.where(near & (length > 0.1**2), position, alpha)
    alpha[inside], alpha[outside] = 1, 0
    return np.where(near[..., None], front, rgb), alpha


def _check_mask(alpha: ndarray, name: str, largest: float = MAX_OBJECT) -> None:
    share = float((alpha > 0.5).mean())
    if share < MIN_OBJECT:
        raise ImageError(f"{name}: no object found in it; use a picture of one that stands out, or with transparency")
    if share > largest:
        raise ImageError(f"{name}: no background found around an object; use a picture with some margin around it")


def _without_specks(mask: ndarray, share_of_largest: float = 0.0, share_of_picture: float = 0.0) -> ndarray:
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0:
        return mask
    large = 1 + np.flatnonzero(areas >= max(share_of_largest * areas.max(), share_of_picture * mask.size))
    return np.isin(labels, large)


def _with_alpha(rgb: ndarray, alpha: ndarray) -> Image.Image:
    return Image.fromarray((np.dstack([rgb, alpha]) * 255 + 0.5).clip(0, 255).astype(np.uint8))


def _reduce(rgba: Image.Image) -> Image.Image:
    """At most WORK_SIDE pixels a side. (PIL premultiplies RGBA before it resamples.)"""
    scale = WORK_SIDE / max(rgba.size)
    if scale >= 1:
        return rgba
    size = [max(MIN_SIDE, round(side * scale)) for side in rgba.size]
    return rgba.resize(size, Image.Resampling.HAMMING, reducing_gap=3.0)


def _resize(rgb: ndarray, longest: int) -> ndarray:
    scale = min(1.0, longest / max(rgb.shape[:2]))
    size = [max(MIN_SIDE, round(side * scale)) for side in rgb.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_AREA)


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
