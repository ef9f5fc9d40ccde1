"""The perceptual distance: LPIPS (Zhang et al., 2018), from the `lpips` package.

`alex`, `vgg`, `squeeze`: the package's heads on a trunk that torchvision downloads. `mini` or a folder: `config.json`,
which names one of the three trunks (`{"net": "squeeze"}`), and the weights of trunk and heads in `lpips.safetensors`.
`untrained`: the package's heads on an AlexNet trunk with fixed random weights. Random features still compare local
structure rather than pixels, but a stand-in they are: numbers are comparable with each other only, never with a
paper's.
"""

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from vfusion3d.foundations.loading import load_once, only_numbers, role
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.reading import read_json, read_tensors

if TYPE_CHECKING:
    from lpips import LPIPS  # takes seconds, with torchvision

UNTRAINED_SEED = 0
TRUNKS = ("alex", "vgg", "squeeze")
CONFIG = "config.json"
WEIGHTS = "lpips.safetensors"


class _Config(TypedDict):
    net: str


class PerceptualDistance(nn.Module):
    """Two batches in [0, 1], `(B, 3, H, W)`, sides of at least 32 pixels, to distances `(B,)`, 0 for equal images.

    trunk: "alex", "vgg", "squeeze", "untrained", a folder, or an LPIPS at hand. Differentiable in both batches; its
    weights are frozen.
    """

    def __init__(self, trunk: "str | LPIPS"):
        super().__init__()
        self.lpips = self._named(trunk) if isinstance(trunk, str) else trunk
        self.requires_grad_(False).eval()

    def _named(self, trunk: str) -> "LPIPS":
        from lpips import LPIPS

        folder = Path(trunk) if Path(trunk).is_dir() else None
        net = read_json(folder / CONFIG, _Config)["net"] if folder else trunk
        if net not in TRUNKS and net != "untrained":
            raise ValueError(f"the trunk of LPIPS is {net!r}; it can be {', '.join(TRUNKS)} or untrained")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's deprecations inside lpips
            torch.manual_seed(UNTRAINED_SEED)
            random = net == "untrained" or folder is not None
            with only_numbers():
                distance = LPIPS(net="alex" if net == "untrained" else net, pnet_rand=random, verbose=False)
        if folder:
            _load(distance, folder / WEIGHTS)
        return distance

    def forward(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
        return self.lpips(a, b, normalize=True).flatten()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config and weights to a folder that a profile can name; loaded, they are float32 again."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps({"net": self.lpips.pnet_type}) + "\n")
        state = {n: v.to("cpu", dtype) for n, v in self.lpips.state_dict().items() if not n.startswith("lins.")}
        save_file(state, folder / WEIGHTS)


def _load(distance: "LPIPS", file: Path) -> None:
    """The heads have two names each in `lpips`, `lin0` and `lins.0`; a file may have either, or both."""
    state = {re.sub(r"^lins\.(\d)", r"lin\1", name): value for name, value in read_tensors(file)[0].items()}
    missing, unexpected = distance.load_state_dict(state, strict=False)
    wrong = unexpected + [name for name in missing if not name.startswith("lins.")]
    if wrong:
        raise ValueError(f"{file.name} does not fit the trunk {distance.pnet_type}: {', '.join(wrong[:3])}, ...")


@role("perceptual_distance")
def perceptual_distance(profile: Profile) -> PerceptualDistance:
    """The profile's perceptual distance, on its device.

    Always float32: it is a loss, whose gradients are small, and a metric. Raises ModelUnavailable, which says which
    trunks there are, where it cannot be had.
    """
    return load_once(profile, "perceptual_distance", lambda source, device, _: PerceptualDistance(source).to(device))
