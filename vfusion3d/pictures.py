"""Pictures that are kept in a repository have few colours: a palette of 256 makes a contact sheet a third as large."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

COLOURS = 256


def smaller_png(data: bytes) -> bytes:
    """A PNG with at most 256 colours, or the given one where that is smaller already. Transparency becomes white."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    written = io.BytesIO()
    _reduced(Image.alpha_composite(white, picture).convert("RGB")).save(written, "PNG", optimize=True)
    return min(data, written.getvalue(), key=len)


def few_colours(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """The same picture in the 256 colours that fit it best."""
    return np.asarray(_reduced(Image.fromarray(pixels)).convert("RGB"))


def _reduced(picture: Image.Image) -> Image.Image:
    return picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
