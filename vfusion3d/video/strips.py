"""Film strips of a video model while it learns: the same first frames and the same noise at every look."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from vfusion3d.data.images import on_white, resize
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.foundations.image_to_video import VideoModel, to_pil
from vfusion3d.model.preprocess import load_image
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.profiles import Video
from vfusion3d.video.generate import animate, sample_generator


def first_frames(shards: MultiviewShards, count: int, size: int) -> Float[Tensor, "count 3 size size"]:
    """View 0 of the first `count` objects, or of all where there are fewer, on white, in [0, 1]."""
    return torch.cat([resize(on_white(shards.read(i, [0]).rgba), size) for i in range(min(count, len(shards)))])


def videos_from(
    first: Float[Tensor, "n 3 size size"], model: VideoModel, recipe: Video, seed: int
) -> Float[Tensor, "n frames 3 size size"]:
    """A video from each first frame, `recipe.generate_batch` at once; sample i has the random numbers (seed, i)."""
    pictures = [(image[None], sample_generator(seed, index)) for index, image in enumerate(first)]
    batches = range(0, len(pictures), recipe.generate_batch)
    return torch.cat([animate(pictures[start : start + recipe.generate_batch], model, recipe) for start in batches])


def keep_strips(
    folder: str | Path, first: Float[Tensor, "n 3 size size"], recipe: Video, seed: int
) -> Callable[[VideoModel, int], None]:
    """What `finetune_video_model` takes as `show`: writes FOLDER/step-000100.png, a row of frames for each first one.

    A strip that is there already is not made again.
    """

    def show(model: VideoModel, step: int) -> None:
        path = Path(folder) / f"step-{step:06d}.png"
        if path.exists():
            return
        videos = videos_from(first, model, recipe, seed)
        rows = torch.cat([torch.cat(list(video), dim=2) for video in videos], dim=1)
        write_whole(path, partial(to_pil(rows[None])[0].save, format="PNG"))

    return show


def read_strips(folder: str | Path, size: int) -> dict[int, Float[Tensor, "n frames 3 size size"]]:
    """The strips of a folder, by step: n videos each, of frames of `size` pixels a side."""
    strips = {}
    for path in sorted(Path(folder).glob("step-*.png")):
        pixels = pil_to_tensor(load_image(path).convert("RGB")).float() / 255
        frames = pixels.unfold(1, size, size).unfold(2, size, size)
        strips[int(re.sub(r"\D", "", path.stem))] = frames.permute(1, 2, 0, 3, 4)
    return strips
