"""The miniature aesthetic head: an MLP on CLIP features that scores clean pictures above spoilt ones.

LAION's head learned from people's ratings. Here the only judgement there is comes from what was done to a picture: of
the same picture, clean and spoilt (blurred, noisy, its patches shuffled), the clean one is to score higher, the more
so the more was spoilt.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from vfusion3d.foundations.aesthetic_score import AestheticHead
from vfusion3d.foundations.clip import Clip
from vfusion3d.learning.loop import Lesson
from vfusion3d.miniatures.perceptual import blurred, noisy, shuffled
from vfusion3d.miniatures.training import Training, WebPictures

SPOILT = (blurred, noisy, shuffled)
LEAST = 0.2  # of what can be done to a picture: less is hardly seen
HIDDEN = (64,)
TRAINING = Training(steps=600, batch_size=32, learning_rate=2e-3, warmup=50, weight_decay=0.01, seed=47)


def aesthetic_lesson(
    data: str | Path, clip: Clip, training: Training = TRAINING, start: str | Path | None = None
) -> Lesson:
    """A head, and pictures of the web world in `data`, clean and spoilt, as `clip` sees them.

    start: the folder of such a head, to go on from.
    """
    pictures = WebPictures(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        head = AestheticHead(clip.image_features(torch.ones(1, 3, 64, 64)).shape[1], HIDDEN)
    if start is not None:
        head = AestheticHead.from_pretrained(start).requires_grad_(True)

    def batch_of(step: int, places: Sequence[int]) -> Float[Tensor, "2 batch features"]:
        rng, generator = training.random(step, places)
        images = pictures(rng, training.batch_size).images.float() / 255
        return torch.stack([clip.image_features(images), clip.image_features(spoil(images, generator))])

    return Lesson(head, batch_of, _rank, {"data": pictures.fingerprints})


def spoil(images: Float[Tensor, "batch 3 h w"], generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
    """Each image blurred, noisy or shuffled, by more than `LEAST` of what there is."""
    kinds = torch.randint(len(SPOILT), (len(images),), generator=generator).tolist()
    amounts = LEAST + (1 - LEAST) * torch.rand(len(images), generator=generator)
    spoilt = [SPOILT[k](image[None], float(a), generator) for k, a, image in zip(kinds, amounts, images, strict=True)]
    return torch.cat(spoilt)


def _rank(head: nn.Module, batch: Tensor, generators: list[torch.Generator]) -> dict[str, Tensor]:
    clean, spoilt = (head(features.to(next(head.parameters()).device)) for features in batch)
    return {"loss": -logsigmoid(clean - spoilt).mean(), "right": (clean > spoilt).float().mean()}
