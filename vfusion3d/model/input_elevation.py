"""From which elevation a picture was taken: image features and a network of 2 layers, as in section 3.2.

The paper estimates the elevation of a video, from the averaged features of 4 views. A photo is a single view, so this
network reads one. It comes with the package as what `curation.elevation.train_elevation` learned from rendered pictures
of procedural objects (`miniatures/elevation_estimator.py`); it has never seen a photo.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfusion3d.cameras import HIGHEST_ELEVATION
from vfusion3d.foundations.image_features import ImageFeatures, dino_features
from vfusion3d.foundations.loading import BUNDLED
from vfusion3d.runs.reading import read_tensors

BUNDLED_ESTIMATOR = BUNDLED / "elevation"


class ElevationEstimator:
    """Pictures to elevations. features: the image features that the network was trained on."""

    def __init__(self, features: ImageFeatures, network: nn.Module):
        self.features = features
        self.network = network

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """Radians in [0, pi/4], of pictures of one object on white, in [0, 1]; on the CPU."""
        return self.network(self.features(images).float().cpu())[:, 0].clamp(0, HIGHEST_ELEVATION)


@cache
def bundled_estimator() -> ElevationEstimator:
    """The estimator that comes with the package, on the bundled image features."""
    weights = read_tensors(BUNDLED_ESTIMATOR / "model.safetensors")[0]
    network = two_layers(weights["0.weight"].shape[1], len(weights["0.weight"]))
    network.load_state_dict(weights)
    return ElevationEstimator(dino_features(str(BUNDLED / "image_features")), network)


def two_layers(width: int, hidden: int) -> nn.Sequential:
    """The network: `width` features in, `hidden` units, one number out."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1)).requires_grad_(False).eval()
