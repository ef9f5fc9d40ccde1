"""Make synthetic multi-view videos: prompt -> image -> 16-view video, by the million if need be (section 3.2).

Notable: a shard is a unit of work with seeds of its own. Sample `index` depends on (seed, index) alone: on no other
sample, on no worker. So any worker can make any shard, a killed one goes on at the batch where it stopped, and the
result is the same however many there are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.data.shards import encode_video
from vfusion3d.data.write_shards import Members, write_shards
from vfusion3d.foundations.image_to_video import VideoModel
from vfusion3d.foundations.text_to_image import TextToImage
from vfusion3d.profiles import Video


def generate_videos(
    folder: str | Path,
    prompts: Sequence[str],
    draw: TextToImage,
    model: VideoModel,
    recipe: Video,
    *,
    made_by: str,
    seed: int = 0,
    shard_size: int = 100,
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """One video a prompt, in shards that `VideoShards` reads. Returns the path of `index.json`, written last.

    draw: the text-to-image role. model: the fine-tuned video model; made_by: its name in the settings that stand beside
    the shards. part (k, n): every n-th shard only, beginning with the k-th; n workers share a folder. Interrupted, the
    same call goes on where it stopped. Raises ValueError for an empty list of prompts and where the folder holds videos
    of other settings (overwrite: they are deleted).
    """
    if not prompts:
        raise ValueError("there are no prompts to make videos of")
    settings = {
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16],
        "model": made_by,
        "video": asdict(recipe),
        "seed": seed,
        "shard_size": shard_size,
    }

    def make(indices: range) -> list[Members]:
        _, videos = generate_batch(indices, prompts, draw, model, recipe, seed)
        frames = (videos * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
        known = [{"prompt": prompts[index], "index": index} for index in indices]
        return [encode_video(f, k["prompt"], k) for f, k in zip(frames, known, strict=True)]

    return write_shards(
        folder,
        make,
        len(prompts),
        settings=settings,
        shard_size=shard_size,
        batch=recipe.generate_batch,
        part=part,
        overwrite=overwrite,
        progress=progress,
        unit="video",
    )


def generate_batch(
    indices: Sequence[int], prompts: Sequence[str], draw: TextToImage, model: VideoModel, recipe: Video, seed: int
) -> tuple[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch frames 3 size size"]]:
    """The images and the videos of some prompts (by index), each from random numbers of its own."""
    generators = [sample_generator(seed, index) for index in indices]
    pairs = zip(indices, generators, strict=True)
    images = torch.cat([draw([prompts[index]], generator, recipe.size) for index, generator in pairs])
    videos = model.generate(
        images,
        generators,
        bucket=recipe.motion_bucket,
        frames=recipe.frames,
        steps=recipe.inference_steps,
        guidance=recipe.guidance,
        fps=recipe.fps,
    )
    return images, videos


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The random numbers of one sample."""
    return torch.Generator().manual_seed(int(np.random.default_rng([seed, index]).integers(2**63)))
