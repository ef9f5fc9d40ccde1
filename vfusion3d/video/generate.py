"""Make synthetic multi-view videos: prompt -> image -> 16-view video, by the million if need be (section 3.2).

Notable: a shard is a unit of work with seeds of its own. Sample `index` depends on (seed, index) alone: on no other
sample, on no worker. So any worker can make any shard, a killed one goes on at the batch where it stopped, and the
result is the same however many there are.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.data.shards import encode_video
from vfusion3d.data.write_shards import Members, write_shards
from vfusion3d.foundations.image_to_video import VideoModel
from vfusion3d.foundations.text_to_image import TextToImage
from vfusion3d.learning.loop import fingerprint
from vfusion3d.learning.precision import autocast, resolve
from vfusion3d.runs.claim import Arguments, short_name
from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.profiles import Video
from vfusion3d.runs.ranges import check_ranges
from vfusion3d.world.captions import CaptionError

SETTINGS = ("size", "frames", "fps", "motion_bucket", "guidance", "inference_steps")  # what changes a video
Picture = tuple[Float[Tensor, "1 3 size size"], torch.Generator]


def generate_videos(
    folder: str | Path,
    prompts: Sequence[str],
    draw: TextToImage,
    model: VideoModel,
    recipe: Video,
    *,
    drawn_by: str,
    seed: int = 0,
    shard_size: int = 100,
    part: tuple[int, int] = (0, 1),
    indices: Sequence[int] | None = None,
    overwrite: bool = False,
) -> Path:
    """One video a prompt, in shards that `VideoShards` reads. Returns the path of `index.json`, written last.

    draw: the text-to-image role; drawn_by: the name of its model (`name_of(profile, "text_to_image")`). model: the
    fine-tuned video model. The settings beside the shards hold that name, a fingerprint of the model's network, and
    what of the recipe changes a video.

    indices: videos of these prompts only, each from the random numbers, and so from the image, that it has among all.
    part (k, n): every n-th shard only, beginning with the k-th; n workers share a folder. A prompt that
    `draw` refuses with a CaptionError is left out, listed with the reason under "skipped" in the index. Interrupted,
    the same call goes on where it stopped. Raises ValueError for an empty list of prompts and where the folder holds
    videos of other settings (overwrite: they are deleted), OSError where the disk is full: what is whole is kept.
    """
    check_ranges(seed=seed)
    pixels = recipe.generate_batch * recipe.frames * recipe.size**2
    check_memory("video's generate_batch, frames and size", 3 * 4 * 4 * pixels)
    if not prompts:
        raise ValueError("there are no prompts to make videos of")
    seen = {name: getattr(recipe, name) for name in SETTINGS}
    settings = {
        "prompts": short_name("\n".join(prompts)),
        "text_to_image": drawn_by,
        "model": fingerprint(model.network),
        "video": Arguments(Video, {**seen, "precision": precision_of(model, recipe)}),
        "seed": seed,
        "shard_size": shard_size,
        "indices": None if indices is None else short_name(repr(list(indices))),
    }
    wanted = range(len(prompts)) if indices is None else indices
    return write_shards(
        folder,
        lambda places: _make([wanted[place] for place in places], prompts, draw, model, recipe, seed),
        len(wanted),
        settings=settings,
        shard_size=shard_size,
        batch=recipe.generate_batch,
        part=part,
        overwrite=overwrite,
        unit="video",
        kind="generated videos",
    )


def _make(
    indices: Sequence[int], prompts: Sequence[str], draw: TextToImage, model: VideoModel, recipe: Video, seed: int
) -> list[Members]:
    """The videos of some prompts as `ShardWriter.write` takes them, or why there is none."""
    pictures: dict[int, Picture] = {}
    made: dict[int, Members] = {}
    for index in indices:
        try:
            pictures[index] = draw_picture(index, prompts, draw, recipe, seed)
        except CaptionError as error:
            made[index] = str(error)
    videos = animate(list(pictures.values()), model, recipe) if pictures else []
    for index, video in zip(pictures, videos, strict=True):
        frames = (video * 255).round().byte().permute(0, 2, 3, 1).numpy()
        known = {"prompt": prompts[index], "index": index, "frames": len(frames)}
        made[index] = encode_video(frames, prompts[index], known)
    return [made[index] for index in indices]


def generate_batch(
    indices: Sequence[int], prompts: Sequence[str], draw: TextToImage, model: VideoModel, recipe: Video, seed: int
) -> tuple[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch frames 3 size size"]]:
    """The images and the videos of some prompts (by index), each from random numbers of its own."""
    pictures = [draw_picture(index, prompts, draw, recipe, seed) for index in indices]
    return torch.cat([image for image, _ in pictures]), animate(pictures, model, recipe)


def draw_picture(index: int, prompts: Sequence[str], draw: TextToImage, recipe: Video, seed: int) -> Picture:
    """The image of one prompt, and the random numbers that are left for its video."""
    generator = sample_generator(seed, index)
    return draw([prompts[index]], generator, recipe.size), generator


def animate(pictures: Sequence[Picture], model: VideoModel, recipe: Video) -> Float[Tensor, "batch frames 3 size size"]:
    """A video from each picture, all at once."""
    with autocast(precision_of(model, recipe), next(model.network.parameters()).device):
        return model.generate(
            torch.cat([image for image, _ in pictures]),
            [generator for _, generator in pictures],
            bucket=recipe.motion_bucket,
            frames=recipe.frames,
            steps=recipe.inference_steps,
            guidance=recipe.guidance,
            fps=recipe.fps,
        )


def precision_of(model: VideoModel, recipe: Video) -> str:
    """What `animate` computes in: "bf16" or "no", which a model whose weights are in half precision always gets."""
    weights = next(model.network.parameters())
    return resolve(recipe.mixed_precision, weights.device) if weights.dtype == torch.float32 else "no"


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The random numbers of one sample."""
    return torch.Generator().manual_seed(int(np.random.default_rng([seed, index]).integers(2**63)))
