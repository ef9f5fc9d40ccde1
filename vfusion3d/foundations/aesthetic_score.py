"""The aesthetic score: how pleasing a picture, or a 3D object, is (section 4.3 ranks 3D data by it).

A small head on the image features of the profile's CLIP. `mini`, a folder or a hub name: a saved `AestheticHead`.
`laion`: LAION's public linear head for OpenAI's ViT-L/14 (`clip: ViT-L-14/openai`), which is downloaded; or the path of
that file, `sa_0_4_vit_l_14_linear.pth`. It was fitted to ratings from 1 to 10.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from vfusion3d.foundations.clip import clip
from vfusion3d.foundations.loading import load_once, pretrained, role, unavailable
from vfusion3d.runs.profiles import Profile

AestheticScore = Callable[[Float[Tensor, "B *views 3 H W"]], Float[Tensor, "B"]]
LAION = "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth"


class AestheticHead(nn.Module, PyTorchModelHubMixin):
    """Unit CLIP features (B, D) to scores (B,): an MLP with a layer of each width in `hidden`, linear without one."""

    def __init__(self, features: int, hidden: Sequence[int] = ()):
        super().__init__()
        widths = [features, *hidden]
        layers = [nn.Sequential(nn.Linear(*pair), nn.GELU()) for pair in pairwise(widths)]
        self.features = features
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        return self.layers(features)[:, 0]


@role("aesthetic_score")
def aesthetic_score(profile: Profile) -> AestheticScore:
    """The profile's aesthetic score: a function from images in [0, 1] to scores (B,), higher is better.

    images: (B, 3, H, W), or (B, V, 3, H, W) for objects seen from V sides, whose CLIP features are averaged, as in the
    paper. Scores are on the device of the images, on the scale of the ratings which the head was fitted to. Raises
    ModelUnavailable where head or CLIP cannot be had, or do not fit.
    """
    head = load_once(profile, "aesthetic_score", load_head)
    eyes = clip(profile)
    (length,) = eyes.text_features([""]).shape[1:]
    if length != head.features:
        reason = f"it wants {head.features} features, foundations.clip ({profile.foundations.clip}) has {length}"
        raise unavailable(profile, "aesthetic_score", reason)

    @torch.no_grad()
    def score(images: Float[Tensor, "B *views 3 H W"]) -> Float[Tensor, "B"]:
        features = eyes.image_features(images.flatten(0, -4)).unflatten(0, images.shape[:-3])  # (B, *views, D)
        features = features.mean(dim=1) if images.ndim == 5 else features
        return head(features.to(eyes.device)).to(images.device)

    return score


def load_head(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> AestheticHead:
    """The head at `source` (see above). It is tiny, and stays float32 whatever the dtype."""
    if source == "laion":
        try:
            state = torch.hub.load_state_dict_from_url(LAION, map_location="cpu", weights_only=True, progress=False)
        except OSError as error:
            raise OSError(f"{error}; download {LAION} and name the file in its place") from error
        head = _linear_head(state)
    elif source.endswith(".pth"):  # published in no other form; weights_only reads numbers and runs no code
        head = _linear_head(torch.load(source, map_location="cpu", weights_only=True))
    else:
        head = pretrained(AestheticHead, source, strict=True)
    return head.float().requires_grad_(False).eval().to(device)


def _linear_head(state: dict[str, Tensor]) -> AestheticHead:
    head = AestheticHead(features=state["weight"].shape[1])
    head.layers[0].load_state_dict(state)
    return head
