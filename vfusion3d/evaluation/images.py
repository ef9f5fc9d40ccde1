"""From the views that a shard stores to the images that are compared: on white, at one size."""

import torch
from jaxtyping import Float
from torch import Tensor


def on_white(rgba: Tensor) -> Float[Tensor, "*batch 3 h w"]:
    """Straight-alpha RGBA bytes `(..., 4, H, W)` over a white background: float in [0, 1], `(..., 3, H, W)`."""
    rgba = rgba.float() / 255
    return rgba[..., :3, :, :] * rgba[..., 3:, :, :] + (1 - rgba[..., 3:, :, :])


def resize(image: Float[Tensor, "n 3 h w"], size: int) -> Float[Tensor, "n 3 size size"]:
    """Square images resized with an antialiased bilinear filter; the same tensor where nothing has to change."""
    if image.shape[-2:] == (size, size):
        return image
    return torch.nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
