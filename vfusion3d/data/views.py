"""What a renderer is told and what it gives back, whichever renderer it is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

NOVEL_VIEWS = 32  # of an unseen object, that are compared (section 4.3)
TEST_VIEWS = NOVEL_VIEWS + 1  # and the input


@dataclass(frozen=True)
class RenderedViews:
    """V square views. `rgba`: straight alpha, sRGB, (0, 0, 0, 0) where empty.

    `depth`: distance along the viewing axis at the pixel's centre, in world units, inf where empty. `normals`: unit
    length in world axes at the pixel's centre, good to 0.01, zero where empty. Both None unless they were asked for.
    """

    rgba: UInt8[np.ndarray, "views size size 4"]
    depth: Float[np.ndarray, "views size size"] | None = None
    normals: Float[np.ndarray, "views size size 3"] | None = None


def check_cameras(cam2world, intrinsics) -> tuple[Float[np.ndarray, "views 3 4"], Float[np.ndarray, "views 4"]]:
    """Both as float64 arrays of V cameras; ValueError says what is wrong with them."""
    cam2world, intrinsics = np.asarray(cam2world, np.float64), np.asarray(intrinsics, np.float64)
    if cam2world.ndim != 3 or cam2world.shape[1:] != (3, 4) or len(cam2world) == 0:
        raise ValueError(f"cam2world must be (views, 3, 4), not {cam2world.shape}")
    if intrinsics.shape not in ((4,), (len(cam2world), 4)):
        raise ValueError(f"intrinsics must be (4,) or ({len(cam2world)}, 4), not {intrinsics.shape}")
    intrinsics = np.broadcast_to(intrinsics, (len(cam2world), 4))
    if not (np.isfinite(cam2world).all() and np.isfinite(intrinsics).all() and (intrinsics[:, :2] > 0).all()):
        raise ValueError("cameras must be finite, with focal lengths above 0")
    return cam2world, intrinsics
