"""How good masks are, and what they have to withstand: small coloured patches in a white background (section 3.3)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d

PATCHES = 4  # in an image
LARGEST = 0.12  # side of a patch, as a part of the image's
CLEAR = 0.04  # how far from the object it stays, likewise


def mask_iou(masks: Float[Tensor, "batch 1 h w"], true: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, " batch"]:
    """Intersection over union of soft masks in [0, 1], cut at a half. 1 where both are empty."""
    ours, theirs = masks > 0.5, true > 0.5
    union = (ours | theirs).flatten(1).sum(1)
    return torch.where(union == 0, 1.0, (ours & theirs).flatten(1).sum(1) / union.clamp(min=1))


def with_patches(
    images: Float[Tensor, "batch 3 h w"], alpha: Float[Tensor, "batch 1 h w"], generator: torch.Generator
) -> Float[Tensor, "batch 3 h w"]:
    """The images with up to `PATCHES` patches of random colour, place and size, each clear of the object."""
    size = images.shape[-1]
    reach = 2 * round(CLEAR * size) + 1
    taken = max_pool2d((alpha > 0).float(), reach, 1, reach // 2) > 0
    images = images.clone()
    for image, object_ in zip(images, taken[:, 0], strict=True):
        for _ in range(PATCHES):
            side = 2 + int(torch.randint(max(1, round(LARGEST * size) - 1), (), generator=generator))
            top, left = torch.randint(size - side, (2,), generator=generator).tolist()
            colour = torch.rand(3, 1, 1, generator=generator) * 0.8
            if not object_[top : top + side, left : left + side].any():
                image[:, top : top + side, left : left + side] = colour
    return images
