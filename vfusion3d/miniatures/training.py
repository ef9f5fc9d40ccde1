"""What all miniatures share: pictures and videos of the web world drawn by step, and one way to train on them."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from vfusion3d.data.shards import VideoShards
from vfusion3d.learning import loop
from vfusion3d.learning.loop import Lesson, LoopSettings, recorded


@dataclass(frozen=True)
class Training:
    """How long and how fast a miniature learns; the learning rate warms up, then falls to 0 along a cosine."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.05
    muon: bool = False
    seed: int = 0
    mixed_precision: str = "no"  # or "bf16", "auto"

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

    def random(self, step: int, places: Sequence[int]) -> tuple[np.random.Generator, torch.Generator]:
        """The random numbers of a step's batch: NumPy's for what is drawn, torch's for what is done to it.

        places: [0]; a batch is one whole, whose samples are compared with each other.
        """
        rng = np.random.default_rng([self.seed, step, *places])
        return rng, torch.Generator().manual_seed(int(rng.integers(2**63)))


def learn(
    lesson: Lesson, training: Training, folder: str | Path, *, device: str | None = None, stop_after: float = math.inf
) -> bool:
    """Train in `folder`, or go on there; returns whether all steps are done.

    The lesson's settings hold `data`: the fingerprints of what its batches are drawn from. stop_after: seconds. Raises
    ValueError where the folder holds a run of another lesson, training or start.
    """
    settings = {
        "miniature": type(lesson.model).__name__,
        "training": recorded(training, device),
        **lesson.settings,
    }
    steps = LoopSettings(
        steps=training.steps,
        learning_rate=training.rate,
        seed=training.seed,
        weight_decay=training.weight_decay,
        muon=training.muon,
        mixed_precision=training.mixed_precision,
        checkpoint_every=200,
    )
    whole = replace(lesson, settings=settings, loop=steps)
    return loop.learn(whole, folder, stop_after=stop_after, device=device) is not None


@dataclass(frozen=True)
class Pictures:
    """Captioned pictures. keys: where they came from, for error messages."""

    images: UInt8[Tensor, "batch 3 size size"]
    captions: list[str]
    metadata: list[dict[str, Any]]
    keys: list[str]


class WebPictures:
    """Random pictures of the web world: half of them pictures, half of them frames of videos.

    `WebPictures(folder)(rng, count)`; folder holds `pictures/` and `videos/`, as `render_web` writes them.
    """

    def __init__(self, folder: str | Path):
        self.sources = [VideoShards(Path(folder) / name) for name in ("pictures", "videos")]

    @property
    def fingerprints(self) -> list[str]:
        """Names of the data."""
        return [source.fingerprint for source in self.sources]

    @functools.cached_property
    def size(self) -> int:
        """Pixels a side of a picture."""
        return self.sources[0].pictures(0, [0]).shape[1]

    @functools.cached_property
    def by_colour(self) -> dict[str, list[list[int]]]:
        """For each colour, the samples of each source whose first object has it as its first colour."""
        groups: dict[str, list[list[int]]] = {}
        for which, source in enumerate(self.sources):
            for index in range(len(source)):
                colour = source.metadata(index)["objects"][0]["colours"][0]
                groups.setdefault(colour, [[] for _ in self.sources])[which].append(index)
        return {colour: groups[colour] for colour in sorted(groups) if all(groups[colour])}

    def __call__(self, rng: np.random.Generator, count: int, alike: bool = False) -> Pictures:
        """`count` pictures; alike: all of one colour, so that colour does not tell them apart."""
        chosen = [range(len(source)) for source in self.sources]
        if alike:
            chosen = list(self.by_colour.values())[int(rng.integers(len(self.by_colour)))]
        drawn = [self._draw(rng, self.sources[i % 2], chosen[i % 2]) for i in range(count)]
        images, captions, metadata, keys = zip(*drawn, strict=True)
        images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return Pictures(images, list(captions), list(metadata), list(keys))

    def _draw(self, rng: np.random.Generator, source: VideoShards, among: Sequence[int]):
        index = among[int(rng.integers(len(among)))]
        frame = int(rng.integers(len(source.picture_names(index))))
        picture = source.pictures(index, [frame])[0]
        return picture, source.caption(index), source.metadata(index), source.keys[index]


def random_crops(
    images: Float[Tensor, "batch 3 h w"],
    generator: torch.Generator,
    size: int,
    smallest: float = 0.7,
    largest: float = 1.1,
) -> Float[Tensor, "batch 3 size size"]:
    """A random window of each picture, mirrored half of the time; its side is a share of the picture's.

    Beyond the picture's border its edge is repeated.
    """
    count = len(images)
    draw = torch.rand(count, 4, generator=generator)
    side = smallest + (largest - smallest) * draw[:, 0]
    mirrored = torch.where(draw[:, 1] < 0.5, -1.0, 1.0)
    shift = (2 * draw[:, 2:] - 1) * (1 - side).abs()[:, None]
    where = torch.zeros(count, 2, 3)
    where[:, 0, 0], where[:, 1, 1], where[:, :, 2] = side * mirrored, side, shift
    grid = affine_grid(where, [count, 3, size, size], align_corners=False).to(images)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter_colours(images: Float[Tensor, "batch 3 h w"], generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
    """Each picture with colours mixed anew: turned in hue, paler or stronger, brighter or darker; one in five grey."""
    count, device = len(images), images.device
    draw = torch.rand(count, 4, generator=generator).to(device)
    angle = (2 * draw[:, 0] - 1) * math.pi * 0.6
    grey = torch.full((3, 3), 1 / 3, device=device)
    saturation = torch.where(draw[:, 1] < 0.2, 0.0, 0.5 + draw[:, 1])[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
    eye = torch.eye(3, device=device)
    hue = grey + (eye - grey) * cos + across * sin  # a turn about the grey axis
    mix = grey + saturation * (hue - grey)
    mixed = torch.einsum("bij,bjhw->bihw", mix, images)
    contrast, brightness = 0.7 + 0.6 * draw[:, 2], 0.4 * (draw[:, 3] - 0.5)
    mixed = (mixed - 0.5) * contrast[:, None, None, None] + 0.5 + brightness[:, None, None, None]
    return mixed.clamp(0, 1)
