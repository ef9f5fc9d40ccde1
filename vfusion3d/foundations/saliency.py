"""Saliency: the mask of the central object, for the opacity loss (section 3.3; the paper's U2-Net).

The name of a rembg model (`u2net`), or a folder that holds NAME.onnx. `stand-in`: no learned weights, what differs from
the background's colour, and of that the largest connected part: the paper's small coloured patches in the background
are other parts, and left out. The background's colour is that of the picture's rim, since a generated white is seldom
quite white.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from vfusion3d.data.images import to_bytes
from vfusion3d.foundations.loading import load_once, role
from vfusion3d.foundations.rembg_session import object_mask, rembg_session
from vfusion3d.runs.profiles import Profile

Saliency = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B 1 H W"]]
UNLIKE = 0.06  # least distance from the background, in the channel where it is largest; our white objects have 0.09


@role("saliency")
def saliency(profile: Profile) -> Saliency:
    """The profile's saliency: a function from images in [0, 1], (B, 3, H, W), to masks in [0, 1], (B, 1, H, W).

    The masks are on the device of the images. Raises ModelUnavailable where a network cannot be had.
    """
    if profile.foundations.saliency == "stand-in":
        return unlike_the_background
    session = load_once(profile, "saliency", rembg_session)

    def masks(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        found = [torch.from_numpy(object_mask(session, picture)) for picture in to_bytes(images)]
        return torch.stack(found)[:, None].to(images.device) if found else images[:, :1]

    return masks


def unlike_the_background(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The stand-in: see above. Where half of the rim belongs to the object, its mask is wrong."""
    rim = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1)
    background = rim.median(dim=-1).values[..., None, None]  # (B, 3, 1, 1)
    distance = (images - background).abs().amax(dim=1, keepdim=True)
    parts = [torch.from_numpy(_largest_part(unlike[0])) for unlike in (distance > UNLIKE).cpu().numpy()]
    if not parts:
        return distance
    mask = torch.stack(parts)[:, None].to(images)
    inside = -max_pool2d(-mask, 3, 1, 1)
    nearby = max_pool2d(distance * inside, 5, 1, 2)  # a pixel of the edge: how much of it has the colour further in
    return torch.where((inside == 1) | (nearby == 0), mask, mask * (distance / nearby.clamp(min=UNLIKE)).clamp(0, 1))


def _largest_part(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[mask], minlength=1)
    return mask & (labels == areas.argmax())
