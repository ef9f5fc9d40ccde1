"""From the views that a shard stores to the images that are shown and compared: on white, at one size.

And which formats of pictures are opened at all, of anybody's files.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

# Pillow knows some sixty, by what is in a file and not by its name, and one of them (EPS) starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")


@contextmanager
def only_listed_formats() -> Iterator[None]:
    """Whatever a library opens with Pillow in here has one of `FORMATS`, or is no picture."""
    Image.init()  # else Pillow adds to the list when it meets a name
    known = Image.ID[:]
    Image.ID[:] = FORMATS
    try:
        yield
    finally:
        Image.ID[:] = known


def premultiplied(rgba: UInt8[Tensor, "*batch 4 h w"]) -> Float[Tensor, "*batch 4 h w"]:
    """Straight-alpha bytes to floats in [0, 1], colours multiplied by alpha so that resizing leaves no fringe."""
    rgba = rgba.float() / 255
    colour, alpha = rgba.split([3, 1], dim=-3)
    return torch.cat([colour * alpha, alpha], dim=-3)


def on_white(rgba: UInt8[Tensor, "*batch 4 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Straight-alpha bytes over a white background: float in [0, 1]."""
    colour, alpha = premultiplied(rgba).split([3, 1], dim=-3)
    return colour + 1 - alpha


def resize(images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c size size"]:
    """Square images resized with an antialiased bilinear filter; the same tensor where nothing has to change."""
    if images.shape[-2:] == (size, size):
        return images
    return interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def to_bytes(images: Float[Tensor, "*batch c h w"]) -> UInt8[np.ndarray, "*batch h w c"]:
    """Images in [0, 1], cut to it, as bytes on the CPU, channels last: what is written to files."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte()
    return pixels.movedim(-3, -1).contiguous().cpu().numpy()


def uniform_frames(stored: int, count: int) -> list[int]:
    """The numbers of `count` frames at equal distances among `stored`, the first of them 0. ValueError: too few."""
    if not 1 <= count <= stored:
        raise ValueError(f"{count} frames cannot be taken from a video of {stored}")
    return [number * stored // count for number in range(count)]
