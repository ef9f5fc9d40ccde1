"""The perceptual distance: LPIPS (Zhang et al., 2018), from the `lpips` package.

`alex`, `vgg`, `squeeze`: the package's heads on a trunk that torchvision downloads. `untrained`: the same heads on an
AlexNet trunk with fixed random weights, which needs no download. Random features still compare local structure rather
than pixels, but a stand-in they are: numbers are comparable with each other only, never with a paper's.
"""

import warnings

import lpips
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfusion3d.profiles import Profile

UNTRAINED_SEED = 0
TRUNKS = ("alex", "vgg", "squeeze")


class PerceptualDistance(nn.Module):
    """Two batches in [0, 1], `(B, 3, H, W)`, sides of at least 32 pixels, to distances `(B,)`, 0 for equal images."""

    def __init__(self, trunk: str):
        super().__init__()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's deprecations inside lpips
            torch.manual_seed(UNTRAINED_SEED)
            random = trunk == "untrained"
            self.lpips = lpips.LPIPS(net="alex" if random else trunk, pnet_rand=random, verbose=False)
        self.requires_grad_(False).eval()

    def forward(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
        return self.lpips(a, b, normalize=True).flatten()


def perceptual_distance(profile: Profile) -> PerceptualDistance:
    """The profile's perceptual distance. Raises ValueError for an unknown trunk, OSError where it cannot be had."""
    trunk = profile.foundations.perceptual_distance
    if trunk != "untrained" and trunk not in TRUNKS:
        raise ValueError(f"foundations.perceptual_distance is {trunk!r}; it can be {', '.join(TRUNKS)} or untrained")
    try:
        return PerceptualDistance(trunk)
    except OSError as error:
        raise OSError(
            f"the {trunk} trunk of LPIPS (role perceptual_distance) could not be downloaded: {error}. "
            "Offline, set foundations.perceptual_distance to untrained"
        ) from error
