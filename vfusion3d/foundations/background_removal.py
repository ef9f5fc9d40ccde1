"""Removing a picture's background: an object on transparency (the released code's rembg; section 4.2's photos).

The background goes by the first of these that applies: the picture's own alpha channel; one plain colour all around; a
network of rembg; OpenCV's GrabCut, which stands in for it. Colours near the cut are those of the object alone, so that
no fringe of the old background is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool
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
WORK_SIDE = 1024  # larger pictures are reduced first: no model input is larger than half of this


class ImageError(ValueError):
    """A picture that cannot be used: the message names it, the reason and the fix, in one line."""


@dataclass(frozen=True)
class CutOut:
    """An object without its background. rgba: straight alpha. background: which of `BACKGROUNDS` found it."""

    rgba: Image.Image
    background: str


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
) -> CutOut:
    """Take the object out of its background.

    background: "alpha" (the picture's own transparency), "plain" (one colour all around), "rembg" (its network),
    "grabcut", "keep" (everything stays), "auto": the first of these that applies, in this order; or several of them.
    session: the network of "rembg"; without one, weights that are on this machine (nothing is downloaded).
    name: what messages call the picture. Pictures over 1024 pixels come back reduced. Raises ImageError where no
    object is found.
    """
    if isinstance(background, str) and background not in BACKGROUNDS:
        raise ValueError(f"background={background!r}: choose one of {', '.join(BACKGROUNDS)}")
    ways = AUTO if background == "auto" else (background,) if isinstance(background, str) else tuple(background)
    only = len(ways) == 1
    rgba = _reduce(image.convert("RGBA"))
    if "keep" in ways:
        return CutOut(rgba, "keep")
    pixels = np.asarray(rgba)
    rgb, alpha = pixels[..., :3], pixels[..., 3]

    transparent = float((alpha < 13).mean())
    if ways == ("alpha",) and transparent == 0:
        raise ImageError(f'{name}: has no transparent pixels; use background="auto"')
    if "alpha" in ways and (only or 0.01 < transparent < 1):
        _check_mask(alpha / 255, name, largest=1.0)
        return CutOut(rgba, "alpha")

    plain = _plain_colour(rgb) if "plain" in ways else None
    if ways == ("plain",) and plain is None:
        raise ImageError(f'{name}: has more than one colour along its edges; use background="auto"')
    if plain is not None:
        return CutOut(_with_clean_edges(rgb, _plain_mask(rgb, plain), name, on_white=plain.min() >= 250), "plain")
    if "rembg" in ways:
        weights = None if session else photo_weights()
        if only and not (session or weights):
            raise ImageError(
                f"{name}: rembg's weights are not on this machine; put isnet-general-use.onnx into ~/.u2net "
                'or use background="grabcut"'
            )
        if session or weights:
            mask = object_mask(session or photo_session(weights), rgb)
            _check_mask(mask, name)
            return CutOut(_with_alpha(rgb / np.float32(255), mask), "rembg")
    return CutOut(_with_clean_edges(rgb, grabcut_mask(rgb), name), "grabcut")


def _with_clean_edges(rgb: ndarray, mask: ndarray, name: str, on_white: bool = False) -> Image.Image:
    _check_mask(mask, name)
    colours = rgb / np.float32(255)
    if on_white:  # the model's own background: the edges are right as they are
        return _with_alpha(colours, mask.astype(np.float32))
    return _with_alpha(*_soften(colours, mask, radius=max(1, round(max(mask.shape) / 400))))


def _plain_colour(rgb: ndarray) -> ndarray | None:
    """The colour all around the picture, or None. An object may touch a tenth of the edge."""
    rim = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    colour = np.median(rim, axis=0)
    return colour if (np.abs(rim - colour).max(-1) <= 5).mean() >= 0.9 else None


def _plain_mask(rgb: ndarray, colour: ndarray) -> Bool[ndarray, "height width"]:
    """What differs from the background's colour. Holes under 0.05% of the picture are closed: they are shine."""
    mask = np.abs(rgb.astype(np.float32) - colour).max(-1) > 8
    mask = without_specks(mask, share_of_largest=0.01)
    return ~without_specks(~mask, share_of_picture=0.0005)


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
