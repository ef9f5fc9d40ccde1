"""Removing a picture's background: an object on transparency (the released code's rembg; section 4.2's photos).

The background goes by the first of these that applies: the picture's own alpha channel; one plain colour all around; a
network of rembg; OpenCV's GrabCut, which stands in for it. Colours near the cut are those of the object alone, so that
no fringe of the old background is left. Whatever cut it out, the same look is taken at what came out (`_looked_at`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from vfusion3d.foundations.grabcut import grabcut_mask, without_specks
from vfusion3d.foundations.loading import load_once, role
from vfusion3d.foundations.rembg_session import object_mask, photo_session, photo_weights, rembg_session
from vfusion3d.runs.profiles import Profile

if TYPE_CHECKING:
    from rembg.sessions.base import BaseSession

BACKGROUNDS = ("auto", "alpha", "plain", "grabcut", "rembg", "keep")
AUTO = ("alpha", "plain", "rembg", "grabcut")
MIN_SIDE = 8  # pixels
MIN_OBJECT, MAX_OBJECT = 0.005, 0.95  # shares of the picture between which a mask is believed to be an object
FAINTEST = 0.1  # opacity below which there is nothing to see; a cut-out above it is scaled to full opacity
SHINE = 0.0005  # share of a picture up to which a spot inside an object is not worth a word
SPECK = 0.01  # share of the largest part below which a part is no part of an object
PART = 0.1  # share of the largest part from which another part is worth a word
ISLAND = 0.03  # share of the object up to which a spot of the background's colour inside belongs to it, such as an eye
TOUCHING = 0.02  # share of a picture's side that an object takes of its edge when it goes on outside
EDGE = 0.2  # opacities around a threshold that become those from 0 to 1, so that edges stay smooth
AROUND = 0.15  # of a box's side, which is looked at around it
WORK_SIDE = 1024  # larger pictures are reduced first: no model input is larger than half of this


class ImageError(ValueError):
    """A picture that cannot be used: the message names it, the reason and the fix, in one line."""


@dataclass(frozen=True)
class CutOut:
    """An object without its background. rgba: straight alpha. background: which of `BACKGROUNDS` found it.

    notices: what a person may want to know of it, a line each.
    """

    rgba: Image.Image
    background: str
    notices: tuple[str, ...] = ()


@role("background_removal")
def background_removal(profile: Profile) -> Callable[[Image.Image], CutOut]:
    """The profile's way of taking an object out of its background: a function from a PIL picture to a `CutOut`.

    A picture's own alpha channel and a plain background need no network. For all others: a model of rembg by its name
    (`isnet-general-use`) or a folder that holds NAME.onnx; `stand-in` is GrabCut. The function raises ImageError where
    it finds no object. Raises ModelUnavailable where the network cannot be had.
    """
    if profile.foundations.background_removal == "stand-in":
        return lambda image: cut_out(image, ("alpha", "plain", "grabcut"))
    session = load_once(profile, "background_removal", rembg_session)
    return lambda image: cut_out(image, ("alpha", "plain", "rembg"), session=session)


def cut_out(
    image: Image.Image,
    background: str | Sequence[str] = "auto",
    name: str = "the picture",
    session: "BaseSession | None" = None,
    box: tuple[float, float, float, float] | None = None,
    threshold: float | None = None,
) -> CutOut:
    """Take the object out of its background.

    background: "alpha" (the picture's own transparency), "plain" (one colour all around), "rembg" (its network),
    "grabcut", "keep" (everything stays), "auto": the first of these that applies, in this order; or several of them.
    session: the network of "rembg"; without one, weights that are on this machine (nothing is downloaded).
    name: what messages call the picture. box, threshold: what a person corrects. Outside of the box (left, top, right,
    bottom, as shares of the picture's sides) is background, and the cut-out shows the box and a little around it, or
    with "keep" the box. threshold: opacity in (0, 1) below which a pixel is background, and from which it is opaque.
    Pictures over 1024 pixels come back reduced. Raises ImageError where no object is found.
    """
    if isinstance(background, str) and background not in BACKGROUNDS:
        raise ValueError(f"background={background!r}: choose one of {', '.join(BACKGROUNDS)}")
    ways = AUTO if background == "auto" else (background,) if isinstance(background, str) else tuple(background)
    only = len(ways) == 1
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: must be an opacity between 0 and 1")
    image = image.convert("RGBA")
    rgba, inside = (_reduce(image), None) if box is None else _around(image, box, 0 if "keep" in ways else AROUND)
    if "keep" in ways:
        return CutOut(rgba, "keep")
    pixels = np.asarray(rgba)
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    look = partial(_looked_at, name=name, inside=inside, threshold=threshold)

    transparent = float((alpha < 13).mean())
    if ways == ("alpha",) and transparent == 0:
        raise ImageError(f'{name}: has no transparent pixels; use background="auto"')
    if "alpha" in ways and (only or (transparent > 0.01 and alpha.any())):
        return look(rgb / np.float32(255), alpha / np.float32(255), "alpha")

    plain = _plain_colour(rgb) if "plain" in ways else None
    if ways == ("plain",) and plain is None:
        raise ImageError(f'{name}: has more than one colour along its edges; use background="auto"')
    if plain is not None:
        mask, notices = _plain_mask(rgb, plain)
        return look(*_with_clean_edges(rgb, mask, name, on_white=plain.min() >= 250), "plain", notices=notices)
    if "rembg" in ways:
        weights = None if session else photo_weights()
        if only and not (session or weights):
            raise ImageError(
                f"{name}: rembg's weights are not on this machine; fetch them (vfusion3d background-weights) or put "
                'isnet-general-use.onnx into ~/.u2net, or use background="grabcut"'
            )
        if session or weights:
            mask = object_mask(session or photo_session(weights), rgb)
            return look(rgb / np.float32(255), mask, "rembg")
    return look(*_with_clean_edges(rgb, grabcut_mask(rgb), name), "grabcut")


def _around(
    image: Image.Image, box: Sequence[float], around: float
) -> tuple[Image.Image, Bool[ndarray, "height width"]]:
    """The box with some of what is around it, by which a background is known, and which of it lies inside the box."""
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"box={tuple(box)}: must be left, top, right, bottom from 0 to 1, in this order")
    spare = (around * (right - left), around * (bottom - top))
    corners = [
        max(0.0, left - spare[0]),
        max(0.0, top - spare[1]),
        min(1.0, right + spare[0]),
        min(1.0, bottom + spare[1]),
    ]
    pixels = [round(share * side) for share, side in zip(corners, image.size * 2)]
    if min(pixels[2] - pixels[0], pixels[3] - pixels[1]) < MIN_SIDE:
        raise ImageError(f"the box is less than {MIN_SIDE} pixels of the picture wide or high; draw a larger one")
    part = _reduce(image.crop(pixels))
    x, y = (np.linspace(corners[axis], corners[axis + 2], 2 * side + 1)[1::2] for axis, side in enumerate(part.size))
    return part, ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))


def _with_clean_edges(rgb: ndarray, mask: ndarray, name: str, on_white: bool = False) -> tuple[ndarray, ndarray]:
    """Colours in [0, 1] and opacities."""
    _check_mask(mask, name)
    colours, alpha = rgb / np.float32(255), mask.astype(np.float32)
    if not on_white:  # white is the model's own background, on which the edges are right as they are
        colours, alpha = _soften(colours, mask, radius=max(1, round(max(mask.shape) / 400)))
    return colours, alpha


def _looked_at(
    colours: Float[ndarray, "height width 3"],
    alpha: Float[ndarray, "height width"],
    background: str,
    name: str,
    notices: Sequence[str] = (),
    inside: Bool[ndarray, "height width"] | None = None,
    threshold: float | None = None,
) -> CutOut:
    """The one check of every cut-out: faint ones are made opaque, specks dropped, parts and cut objects named.

    inside, threshold: what a person corrected (see `cut_out`), before all that. Raises ImageError where there is no
    object, nothing else, or hardly any opacity.
    """
    notices = list(notices)
    if threshold is not None:
        alpha = np.clip(0.5 + (alpha - threshold) / EDGE, 0, 1)
    if inside is not None:
        alpha = np.where(inside, alpha, 0)
    opaque = float(np.percentile(alpha[alpha > 0], 99)) if (alpha > 0).any() else 0.0
    if 0 < opaque < FAINTEST:
        raise ImageError(f"{name}: its object is only {opaque:.0%} opaque; export it with full opacity")
    if FAINTEST <= opaque < 0.9:
        notices.append(f"its object was only {opaque:.0%} opaque, and is taken as opaque")
        alpha = np.clip(alpha / opaque, 0, 1)
    _check_mask(alpha, name, largest=1.0 if background == "alpha" else MAX_OBJECT)
    alpha, parts, specks = _without_specks(alpha)
    if specks:
        notices.append(f"{specks} {'speck was' if specks == 1 else 'specks were'} dropped")
    if parts > 1:
        notices.append(f"{parts} separate parts are taken as one object")
    if sides := _sides_touched(alpha > 0.5):
        notices.append(f"the object reaches the picture's {' and '.join(sides)} edge; what lies outside is missing")
    return CutOut(_with_alpha(colours, alpha), background, tuple(notices))


def _without_specks(alpha: Float[ndarray, "height width"]) -> tuple[ndarray, int, int]:
    """The cut-out without specks; how many parts of the object stand apart, and how many specks there were."""
    count, labels = cv2.connectedComponents((alpha > 0.05).astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels[alpha > 0.5], minlength=count)[1:]  # of what is more than half opaque
    large = sizes >= SPECK * sizes.max()
    specks = (sizes > 0) & ~large
    away = cv2.dilate(np.append(False, specks)[labels].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    away &= ~np.append(False, large)[labels]
    return np.where(away, 0, alpha), int((sizes >= PART * sizes.max()).sum()), int(specks.sum())


def _sides_touched(mask: Bool[ndarray, "height width"]) -> list[str]:
    edges = {"top": mask[0], "bottom": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    return [side for side, pixels in edges.items() if pixels.mean() > TOUCHING]


def _plain_colour(rgb: ndarray) -> ndarray | None:
    """The colour all around the picture, or None. An object may touch a tenth of the edge."""
    rim = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    colour = np.median(rim, axis=0)
    return colour if (np.abs(rim - colour).max(-1) <= 5).mean() >= 0.9 else None


def _plain_mask(rgb: ndarray, colour: ndarray) -> tuple[Bool[ndarray, "height width"], list[str]]:
    """What differs from the background's colour, with small spots of that colour inside; and what is to be said.

    A spot cannot be told from a hole by its colour: small ones are eyes, letters or shine, large ones are holes.
    """
    mask = without_specks(np.abs(rgb.astype(np.float32) - colour).max(-1) > 8, share_of_largest=SPECK)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    sizes = statistics[:, cv2.CC_STAT_AREA]
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    inside = ~np.isin(np.arange(count), np.append(rim, 0))
    kept = inside & (sizes <= ISLAND * mask.sum())
    told = int((kept & (sizes > SHINE * mask.size)).sum())
    holes = int((inside & ~kept).sum())
    inside_it = "of the background's colour inside the object"
    notices = [f"{_spots(told)} {inside_it} kept"] if told else []
    notices += [f"{_spots(holes, 'large ')} {inside_it} taken for holes"] if holes else []
    return mask | kept[labels], notices


def _spots(count: int, which: str = "") -> str:
    return f"{count} {which}{'spot' if count == 1 else 'spots'}"


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


def _with_alpha(rgb: ndarray, alpha: ndarray) -> Image.Image:
    return Image.fromarray((np.dstack([rgb, alpha]) * 255 + 0.5).clip(0, 255).astype(np.uint8))


def _reduce(rgba: Image.Image) -> Image.Image:
    """At most WORK_SIDE pixels a side. (PIL premultiplies RGBA before it resamples.)"""
    scale = WORK_SIDE / max(rgba.size)
    if scale >= 1:
        return rgba
    size = [max(MIN_SIDE, round(side * scale)) for side in rgba.size]
    return rgba.resize(size, Image.Resampling.HAMMING, reducing_gap=3.0)
