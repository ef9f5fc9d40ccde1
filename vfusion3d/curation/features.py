"""A video as one vector: the mean image features of some frames (section 3.2: 8 for quality, 4 for elevation)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.data.images import uniform_frames
from vfusion3d.foundations.image_features import ImageFeatures
from vfusion3d.runs.progress import tqdm


def video_features(
    features: ImageFeatures, videos: Float[Tensor, "batch frames 3 h w"], count: int
) -> Float[np.ndarray, "batch width"]:
    """The mean features of `count` uniform frames of each video in [0, 1]."""
    return frame_features(features, videos, count).mean(axis=1)


def frame_features(
    features: ImageFeatures, videos: Float[Tensor, "batch frames 3 h w"], count: int
) -> Float[np.ndarray, "batch count width"]:
    """The features of `count` uniform frames of each video in [0, 1], frame by frame."""
    frames = videos[:, uniform_frames(videos.shape[1], count)]
    return features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).float().cpu().numpy()


def features_of_all(
    features: ImageFeatures, videos: Sequence, count: int, *, batch: int = 32
) -> Float[np.ndarray, "videos width"]:
    """The same for a data set of videos: a sequence of tensors (frames, 3, h, w) in [0, 1]."""
    starts = tqdm(range(0, len(videos), batch), desc="features", unit="batch")
    parts = [
        video_features(features, torch.stack([videos[i] for i in range(start, min(start + batch, len(videos)))]), count)
        for start in starts
    ]
    return np.concatenate(parts)
