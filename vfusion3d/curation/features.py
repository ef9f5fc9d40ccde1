"""A video as one vector: image features of some of its frames, averaged (section 3.2: 8 for quality, 4 elsewhere)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from vfusion3d.foundations.image_features import ImageFeatures


def uniform_frames(stored: int, count: int) -> list[int]:
    """The numbers of `count` frames at equal distances among `stored`, the first of them 0. ValueError: too few."""
    if not 1 <= count <= stored:
        raise ValueError(f"{count} frames cannot be taken from a video of {stored}")
    return [number * stored // count for number in range(count)]


def video_features(
    features: ImageFeatures, videos: Float[Tensor, "batch frames 3 h w"], count: int
) -> Float[np.ndarray, "batch width"]:
    """The mean features of `count` uniform frames of each video in [0, 1]."""
    frames = videos[:, uniform_frames(videos.shape[1], count)]
    seen = features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    return seen.mean(dim=1).float().cpu().numpy()


def features_of_all(
    features: ImageFeatures, videos: Sequence, count: int, *, batch: int = 32, progress: bool = True
) -> Float[np.ndarray, "videos width"]:
    """The same for a data set of videos: a sequence of tensors (frames, 3, h, w) in [0, 1]."""
    starts = range(0, len(videos), batch)
    bar = tqdm(starts, desc="features", unit="batch", disable=not progress)
    parts = [
        video_features(features, torch.stack([videos[i] for i in range(start, min(start + batch, len(videos)))]), count)
        for start in bar
    ]
    return np.concatenate(parts)
