"""Image features: what makes two pictures alike (the paper's DINO, sections 3.1 and 3.2).

`mini`, a folder or a hub name: the class token of that `Dinov2Model` (`image_features`), which says what is shown, or
its patch tokens (`patch_features`), which also say where. `stand-in`: no learned weights, a blurred 16x16
thumbnail of what is not white. `untrained`: a small DINOv2 with fixed random weights. Measured on 60 unseen procedural
objects against 100 training objects, the thumbnail finds the right category for 72% of those that have one and the
untrained DINOv2 for 21% at best (patch tokens averaged; the class token: 14%). It knows position and colour but not
meaning: a mirrored mug is another object to it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from vfusion3d.foundations.dinov2 import Dinov2
from vfusion3d.foundations.loading import BUNDLED, load_once, pretrained, role
from vfusion3d.runs.profiles import Profile

ImageFeatures = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B D"]]
THUMBNAIL = 16  # 4, 8 and 32 pixels a side retrieve slightly worse
SIDE = 224  # pixels a side of what a pretrained DINOv2 sees at most
GRID = 4  # cells a side over which patch tokens are averaged
UNTRAINED_SEED = 0
UNTRAINED = dict(hidden_size=192, num_hidden_layers=6, num_attention_heads=6, image_size=64, patch_size=8)
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures, as DINOv2 expects
STD = (0.229, 0.224, 0.225)


@role("image_features")
def image_features(profile: Profile) -> ImageFeatures:
    """The profile's image features: a function from images in [0, 1] on white, (B, 3, H, W), to (B, D).

    The features are float32, on the device of the images; a network computes them on the profile's device, in its
    dtype. Raises ModelUnavailable where a pretrained model cannot be had.
    """
    if profile.foundations.image_features == "stand-in":
        return thumbnails
    return load_once(profile, "image_features", _dino)[0]


@role("image_features")
def patch_features(profile: Profile) -> ImageFeatures:
    """The same with a finer answer, (B, 16 D): the mean patch token of each cell of a 4x4 grid, one after the other.

    For what is a matter of where, such as the height from which something is seen. The stand-in's are the same
    thumbnails.
    """
    if profile.foundations.image_features == "stand-in":
        return thumbnails
    return load_once(profile, "image_features", _dino)[1]


@torch.no_grad()
def thumbnails(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
    """How far each cell of a 16x16 grid is from white, in red, green and blue: the background counts nothing."""
    size = (THUMBNAIL, THUMBNAIL)
    return interpolate(1 - images, size, mode="bilinear", antialias=True, align_corners=False).flatten(1)


def dino_features(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> ImageFeatures:
    """The class token of the DINOv2 at `source` (a folder, a hub name or "untrained"); see `image_features`."""
    return _dino(source, device, dtype)[0]


def _dino(source: str, device: torch.device | str, dtype: torch.dtype) -> tuple[ImageFeatures, ImageFeatures]:
    """Class token and patch tokens of one network."""
    if Path(source).is_relative_to(BUNDLED):
        model = Dinov2.from_folder(Path(source))
        encode, sizes = model, model
    else:
        model = _of_transformers(source)
        encode, sizes = (lambda pixels: model(pixels).last_hidden_state), model.config
    model.requires_grad_(False).eval().to(device, dtype)
    side = min(sizes.image_size, SIDE)
    cells = side // sizes.patch_size
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    @torch.no_grad()
    def tokens(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B tokens D"]:
        seen = images.to(device, torch.float32)
        seen = interpolate(seen, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return encode(((seen - mean) / std).to(dtype)).float().to(images.device)

    def whole(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return tokens(images)[:, 0]

    def by_cell(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D16"]:
        grid = tokens(images)[:, 1:].unflatten(1, (cells, cells)).permute(0, 3, 1, 2)
        return adaptive_avg_pool2d(grid, GRID).flatten(2).mT.flatten(1)

    return whole, by_cell


def _of_transformers(source: str) -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    if source != "untrained":
        return pretrained(Dinov2Model, source, use_safetensors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return Dinov2Model(Dinov2Config(**UNTRAINED))
