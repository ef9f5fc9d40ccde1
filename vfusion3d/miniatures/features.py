"""The miniature DINOv2: a `Dinov2Model` that learns without labels what stays when a picture changes (SimCLR).

Two pictures of a pair are crops of one picture or of two frames of one video, each with its own colours, half of them
only the outline; the class tokens of a pair must be alike, and unlike those of all other pictures of the batch
(NT-Xent, Chen et al., 2020). So it learns to look through viewpoint, framing, colour and pattern, at what a thing is.
All stand on white: other backgrounds tell pictures apart so easily that things are not looked at. DINO's own loss
needs far more samples.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms.functional import normalize
from transformers import Dinov2Config, Dinov2Model

from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.image_features import MEAN, STD
from vfusion3d.learning.loop import Lesson
from vfusion3d.miniatures.training import Training, WebPictures, jitter_colours, random_crops

CONFIG = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
}
TEMPERATURE = 0.1
TRAINING = Training(steps=1300, batch_size=128, learning_rate=1.5e-3, weight_decay=0.05, muon=True, seed=43)


class Projected(nn.Module):
    """The model and the head that only its training needs; the class token goes through it to where pairs must meet."""

    def __init__(self, model: Dinov2Model):
        super().__init__()
        width = model.config.hidden_size
        self.model = model
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 64))

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 64"]:
        return self.head(self.model(normalize(images, MEAN, STD)).last_hidden_state[:, 0])


def features_lesson(data: str | Path, training: Training = TRAINING, start: str | Path | None = None) -> Lesson:
    """A `Projected` DINOv2 and pairs of pictures of the web world in `data`, captions unread.

    start: the folder of such a DINOv2, to go on from.
    """
    pictures = WebPictures(data)
    on_white = [[i for i in range(len(s)) if s.metadata(i)["background"] == "white"] for s in pictures.sources]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Dinov2Model(Dinov2Config(**CONFIG))
        if start is not None:
            model = Dinov2Model.from_pretrained(start, dtype=torch.float32)
        student = Projected(model)
    student.model.embeddings.mask_token.requires_grad_(False)

    def batch_of(step: int, places: Sequence[int]) -> Float[Tensor, "2 batch 3 h w"]:
        rng, generator = training.random(step, places)
        kinds = [min(i % 3, 1) for i in range(training.batch_size)]  # two thirds are frames of videos
        pairs = [_pair(pictures.sources[kind], on_white[kind], rng) for kind in kinds]
        images = torch.from_numpy(np.stack(pairs)).permute(1, 0, 4, 2, 3).float() / 255
        return torch.stack([_changed(each, generator) for each in images])

    return Lesson(student, batch_of, _alike, {"data": pictures.fingerprints})


def _pair(source: VideoShards, among: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    index = among[int(rng.integers(len(among)))]
    frames = rng.integers(len(source.picture_names(index)), size=2)
    return source.pictures(index, frames)


def _changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other framing and colours; and of half of the pictures only the outline, filled with one colour."""
    cropped = random_crops(images, generator, images.shape[-1], 0.6, 1.2)
    inside = (8 * (1 - cropped.amin(dim=1, keepdim=True)) - 0.5).clamp(0, 1)
    paint = 0.8 * torch.rand(len(images), 3, 1, 1, generator=generator)
    filled = 1 - inside * (1 - paint)
    plain = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return jitter_colours(torch.where(plain, filled, cropped), generator)


def _alike(model: nn.Module, pairs: Tensor, generators: list[torch.Generator]) -> dict[str, Tensor]:
    from pytorch_metric_learning.losses import NTXentLoss

    count = pairs.shape[1]
    embedded = model(pairs.flatten(0, 1).to(next(model.parameters()).device))
    labels = torch.arange(count, device=embedded.device).repeat(2)
    with torch.no_grad():
        unit = nn.functional.normalize(embedded, dim=-1)
        found = (unit[:count] @ unit[count:].T).argmax(dim=1) == labels[:count]
    return {"loss": NTXentLoss(temperature=TEMPERATURE)(embedded, labels), "found": found.float().mean()}
