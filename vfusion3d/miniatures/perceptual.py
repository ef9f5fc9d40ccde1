"""The miniature perceptual distance: LPIPS (Zhang et al., 2018) on a SqueezeNet trunk that never saw ImageNet.

As in the original there are two steps. The trunk learns to name what is in a picture: all categories, colours, patterns
and proportions of the web world's captions, as ImageNet's networks learned to name. Then the trunk is frozen, and one
weight a channel, never negative, learns to rank: of two changes of a picture the weaker one, by lpips' own ranking
loss. People's judgements are what the original learned from; here the strength of the change is known.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import lpips
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.learning.loop import Lesson
from vfusion3d.miniatures.training import Training, WebPictures, jitter_colours, random_crops
from vfusion3d.world.catalogue import COLOURS, DRAWN, PROPORTIONS
from vfusion3d.world.patterns import PATTERNS

NET = "squeeze"
LABELS = [*DRAWN, *COLOURS, *PATTERNS, *(word for word in PROPORTIONS if word)]
NAMING = Training(steps=1600, batch_size=96, learning_rate=1.0e-3, warmup=200, weight_decay=0.01, seed=44)
RANKING = Training(steps=400, batch_size=48, learning_rate=5e-3, warmup=20, weight_decay=0.0, seed=45)


def new_lpips() -> lpips.LPIPS:
    """LPIPS with a random trunk, all channels weighed alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's deprecations inside lpips
        distance = lpips.LPIPS(net=NET, pnet_rand=True, pretrained=False, verbose=False)
    for weights, channels in zip(distance.lins, distance.chns, strict=True):
        nn.init.constant_(weights.model[-1].weight, 1 / channels)
    for module in distance.net.modules():  # He initialisation: the trunk has no normalisation to save it
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return distance


class Naming(nn.Module):
    """The trunk of LPIPS with one linear layer over the mean of its deepest features: a score for each label."""

    def __init__(self, distance: lpips.LPIPS):
        super().__init__()
        self.distance = [distance]  # not a part of this model: only the trunk learns
        self.scale = distance.scaling_layer
        self.trunk = distance.net
        self.head = nn.Linear(distance.chns[-1], len(LABELS))

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch labels"]:
        return self.head(self.trunk(self.scale(images * 2 - 1))[-1].mean(dim=(2, 3)))


class Ranking(nn.Module):
    """LPIPS, and lpips' ranking loss that reads a pair of distances."""

    def __init__(self, distance: lpips.LPIPS):
        super().__init__()
        self.distance = distance
        self.rank = lpips.BCERankingLoss()

    def forward(self, triplet: Float[Tensor, "3 batch 3 h w"], nearer: Tensor) -> tuple[Tensor, Tensor]:
        picture, a, b = triplet * 2 - 1
        first, second = self.distance(picture, a), self.distance(picture, b)
        right = (first < second) == (nearer > 0)
        return self.rank(first, second, nearer).mean(), right.float().mean()


def naming_lesson(data: str | Path, training: Training = NAMING, start: str | Path | None = None) -> Lesson:
    """The first step: a `Naming` around the trunk of a new LPIPS, and the labelled pictures of the web world in `data`.

    start: the folder of such a distance, to go on from.
    """
    pictures = WebPictures(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Naming(PerceptualDistance(str(start)).lpips if start is not None else new_lpips())
    model.trunk.requires_grad_(True)

    def batch_of(step: int, places: Sequence[int]):
        rng, generator = training.random(step, places)
        drawn = pictures(rng, training.batch_size)
        images = random_crops(drawn.images.float() / 255, generator, drawn.images.shape[-1], 0.6, 1.1)
        return images, torch.stack([labels_of(metadata["objects"]) for metadata in drawn.metadata])

    return Lesson(model, batch_of, _naming_loss, {"data": pictures.fingerprints})


def ranking_lesson(data: str | Path, naming: Naming, training: Training = RANKING) -> Lesson:
    """The second step: the distance of a trained `Naming`, its trunk frozen, and pictures that were changed."""
    pictures = WebPictures(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Ranking(naming.distance[0])
    model.distance.net.requires_grad_(False)
    model.distance.lins.requires_grad_(True)

    def batch_of(step: int, places: Sequence[int]):
        rng, generator = training.random(step, places)
        return triplets(pictures(rng, training.batch_size).images.float() / 255, generator)

    return Lesson(model, batch_of, _ranking_loss, {"data": pictures.fingerprints})


@torch.no_grad()
def keep_positive(distance: lpips.LPIPS) -> None:
    """No channel may make pictures more alike by being different."""
    for weights in distance.lins:
        weights.model[-1].weight.clamp_(min=0)


def _naming_loss(model: nn.Module, batch, generators: list[torch.Generator]) -> dict[str, Tensor]:
    images, labels = (each.to(next(model.parameters()).device) for each in batch)
    scores = model(images)
    kinds = len(DRAWN)
    right = labels[:, :kinds].gather(1, scores[:, :kinds].argmax(1, keepdim=True)).mean()
    return {"loss": binary_cross_entropy_with_logits(scores, labels) * len(LABELS) / 4, "right": right}


def _ranking_loss(model: nn.Module, batch, generators: list[torch.Generator]) -> dict[str, Tensor]:
    keep_positive(getattr(model, "module", model).distance)
    loss, right = model(*(each.to(next(model.parameters()).device) for each in batch))
    return {"loss": loss, "right": right}


def labels_of(objects: list[dict]) -> Float[Tensor, "labels"]:
    """1 for each of `LABELS` that one of the objects (specs as dictionaries) has, else 0."""
    words = set()
    for spec in objects:
        words |= {spec["category"], *spec["colours"], spec["pattern"], spec["proportion"]}
    return torch.tensor([float(label in words) for label in LABELS])


def triplets(images: Float[Tensor, "batch 3 h w"], generator: torch.Generator):
    """Each picture with two changes of one kind, one stronger: (3, batch, 3, h, w), and +1 where the first is nearer.

    lpips' ranking loss takes (batch, 1, 1, 1) of 1 and -1.
    """
    count = len(images)
    kinds = torch.randint(len(CHANGES), (count,), generator=generator).tolist()
    amounts = torch.rand(2, count, generator=generator)
    changed = []
    for of_pictures in amounts.tolist():
        each = zip(images, kinds, of_pictures, strict=True)
        changed.append(torch.cat([CHANGES[kind](image[None], amount, generator) for image, kind, amount in each]))
    nearer = torch.where(amounts[0] < amounts[1], 1.0, -1.0).view(-1, 1, 1, 1)
    return torch.stack([images, *changed]), nearer


def blurred(image: Float[Tensor, "1 3 h w"], amount: float, generator: torch.Generator) -> Tensor:
    """Smoothed by a box that grows with `amount` in [0, 1] from one pixel to an eighth of the side."""
    side = image.shape[-1]
    fine = 1 + amount * (side / 8 - 1)
    small = max(2, round(side / fine))
    low = interpolate(image, (small, small), mode="bilinear", antialias=True, align_corners=False)
    return interpolate(low, (side, side), mode="bilinear", align_corners=False)


def noisy(image: Float[Tensor, "1 3 h w"], amount: float, generator: torch.Generator) -> Tensor:
    """With normal noise of a deviation up to 0.3."""
    return (image + 0.3 * amount * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def shuffled(image: Float[Tensor, "1 3 h w"], amount: float, generator: torch.Generator, grid: int = 8) -> Tensor:
    """With a share `amount` of its 8x8 patches exchanged at random."""
    side = image.shape[-1] // grid
    patches = image.unfold(2, side, side).unfold(3, side, side).flatten(2, 3).clone()  # (1, 3, grid^2, side, side)
    chosen = torch.randperm(grid * grid, generator=generator)[: round(amount * grid * grid)]
    patches[:, :, chosen] = patches[:, :, chosen[torch.randperm(len(chosen), generator=generator)]]
    rows = patches.unflatten(2, (grid, grid)).permute(0, 1, 2, 4, 3, 5)
    return rows.reshape(1, 3, grid * side, grid * side)


def recoloured(image: Float[Tensor, "1 3 h w"], amount: float, generator: torch.Generator) -> Tensor:
    """Mixed with the same picture in other colours."""
    return image + amount * (jitter_colours(image, generator) - image)


def moved(image: Float[Tensor, "1 3 h w"], amount: float, generator: torch.Generator) -> Tensor:
    """Shifted by up to an eighth of the side in a random direction, its edges repeated."""
    reach = max(1, round(amount * image.shape[-1] / 8))
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    if not down and not right:
        right = 1
    padded = nn.functional.pad(image, [reach] * 4, mode="replicate")
    side = image.shape[-1]
    return padded[..., reach * (1 + down) :, reach * (1 + right) :][..., :side, :side]


CHANGES = (blurred, noisy, shuffled, recoloured, moved)
