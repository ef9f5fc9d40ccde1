"""Which files are pictures; and those kept in a repository have 32 levels a channel, which halves a contact sheet.

Commands read the suffixes before anything heavy is loaded, so numpy and PIL are imported where they are needed.
"""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

OF_PHOTOS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif")
PICTURE_SUFFIXES = (*OF_PHOTOS, ".bmp", ".gif", ".tif", ".tiff")  # of what is looked for in a folder of pictures
VIDEO_SUFFIXES = (".mp4", ".gif")  # of a turntable that is written
STEP = 8  # between two levels; steps of 16 begin to show, and a palette of 256 colours shows more


def smaller_png(data: bytes) -> bytes:
    """A PNG with 32 levels a channel, or the given one where that is smaller already. Transparency becomes white."""
    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=["PNG"]).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    flat = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    written = io.BytesIO()
    Image.fromarray(fewer_levels(flat)).save(written, "PNG", optimize=True)
    return min(data, written.getvalue(), key=len)


def fewer_levels(pixels: "UInt8[np.ndarray, '*shape']") -> "UInt8[np.ndarray, '*shape']":
    """Each value as the nearest multiple of 8, or as 255: black and white stay what they are."""
    import numpy as np

    return np.uint8(np.clip((pixels.astype(int) + STEP // 2) // STEP * STEP, 0, 255))
