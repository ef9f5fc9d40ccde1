"""Make synthetic multi-view videos: prompt -> image -> 16-view video, by the million if need be (section 3.2).

Notable: a shard is a unit of work with seeds of its own. Sample `index` depends on (seed, index) alone: on no other
sample, on no worker. So any worker can make any shard, a killed one goes on at the batch where it stopped, and the
result is the same however many there are.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from vfusion3d.data.shards import ShardWriter, encode_video, shard_path, write_index
from vfusion3d.foundations.image_to_video import VideoModel
from vfusion3d.foundations.text_to_image import TextToImage
from vfusion3d.profiles import Video
from vfusion3d.settings import claim_folder


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
    folder, (which, parts) = Path(folder), part
    if not prompts:
        raise ValueError("there are no prompts to make videos of")
    if not 0 <= which < parts:
        raise ValueError(f"part must be (k, n) with 0 <= k < n, not {part}")
    settings = {
        "prompts": len(prompts),
        "first": list(prompts[:3]),
        "model": made_by,
        "size": recipe.size,
        "frames": recipe.frames,
        "inference_steps": recipe.inference_steps,
        "guidance": list(recipe.guidance),
        "motion_bucket": recipe.motion_bucket,
        "seed": seed,
        "shard_size": shard_size,
    }
    claim_folder(folder, settings, overwrite=overwrite)
    shards = math.ceil(len(prompts) / shard_size)
    mine = [range(k * shard_size, min((k + 1) * shard_size, len(prompts))) for k in range(which, shards, parts)]
    with tqdm(total=sum(map(len, mine)), unit="video", desc=f"generating {folder.name}", disable=not progress) as bar:
        for indices in mine:
            path = shard_path(folder, indices.start // shard_size)
            if path.exists():
                bar.update(len(indices))
                continue
            with ShardWriter(path) as writer:
                for start in range(indices.start, indices.stop, recipe.generate_batch):
                    batch = range(start, min(start + recipe.generate_batch, indices.stop))
                    _write_batch(writer, batch, prompts, draw, model, recipe, seed)
                    bar.update(len(batch))
    if all(shard_path(folder, shard).exists() for shard in range(shards)):
        return write_index(folder, settings=settings)
    return folder / "index.json"  # the last worker to finish writes it


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


def _write_batch(writer: ShardWriter, indices: range, prompts, draw, model, recipe: Video, seed: int) -> None:
    keys = [f"{index:08d}" for index in indices]
    if all(key in writer.keys for key in keys):
        return
    _, videos = generate_batch(indices, prompts, draw, model, recipe, seed)
    for key, index, video in zip(keys, indices, videos, strict=True):
        if key not in writer.keys:
            frames = (video * 255).round().byte().permute(0, 2, 3, 1).numpy()
            writer.write(key, encode_video(frames, prompts[index], {"prompt": prompts[index], "index": index}))
