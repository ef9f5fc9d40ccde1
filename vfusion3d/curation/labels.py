"""What is known of each synthetic video, written beside it: its quality, its elevation, a mask for every frame.

Shard for shard and key for key as the videos themselves. The filter's decision is stored as a score beside the video,
and no video is removed: who reads chooses the threshold (`SyntheticShards`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from torch import Tensor

from vfusion3d.curation.elevation import ELEVATION_VIEWS, grouped, predict_by_groups
from vfusion3d.curation.features import frame_features
from vfusion3d.curation.quality import QUALITY_FRAMES, quality_scores
from vfusion3d.data.shards import LAST_MEMBER, Label, VideoShards, last_members
from vfusion3d.data.write_shards import Members, write_shards
from vfusion3d.foundations.image_features import ImageFeatures
from vfusion3d.foundations.saliency import Saliency
from vfusion3d.runs.reading import parse_json


@dataclass(frozen=True)
class Labels:
    """Of one batch of videos. score: from 0 on the filter keeps it. elevation: radians. masks: in [0, 1]."""

    score: Float[np.ndarray, "batch"]
    elevation: Float[np.ndarray, "batch"]
    masks: Float[Tensor, "batch frames 1 h w"]


@dataclass(frozen=True)
class Labeller:
    """The three models that label videos, and the features that two of them read.

    patches: what the elevation network reads (`image_features.patch_features`) of as many frames as make whole groups
    of 4; None: the filter's features of its 8 frames, two groups. held_out: by fingerprint of the video data and key,
    scores that `label_videos` writes in place of the filter's own, for it has learned from these videos.
    """

    features: ImageFeatures
    quality: Pipeline  # of `quality.train_filter`
    elevation: TransformedTargetRegressor  # of `elevation.train_elevation`
    saliency: Saliency
    patches: ImageFeatures | None = None
    held_out: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def __call__(self, videos: Float[Tensor, "batch frames 3 h w"]) -> Labels:
        """Label videos in [0, 1]; the elevations are radians in [0, pi/4]. Raises ValueError for under 8 frames."""
        seen = frame_features(self.features, videos, QUALITY_FRAMES)
        whole_groups = videos.shape[1] // ELEVATION_VIEWS * ELEVATION_VIEWS
        views = seen if self.patches is None else frame_features(self.patches, videos, whole_groups)
        return Labels(
            quality_scores(self.quality, seen.mean(axis=1)),
            predict_by_groups(self.elevation, grouped(views)),
            self.saliency(videos.flatten(0, 1)).unflatten(0, videos.shape[:2]),
        )


def label_videos(
    videos: str | Path,
    folder: str | Path,
    labeller: Labeller,
    *,
    settings: Mapping[str, Any],
    batch: int = 16,
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
) -> Path:
    """Label the videos in a folder of shards; returns the path of the labels' `index.json`, written last.

    The index says of which videos the labels are, and repeats the scores and elevations of all in the videos' order.
    settings: what names the labeller, kept beside the labels. part (k, n): every n-th shard only, beginning with the
    k-th. Interrupted, the same call goes on where it stopped. Raises ValueError where the folder holds labels of other
    videos or of another labeller (overwrite: they are deleted), and for a batch or a part out of range.
    """
    source = VideoShards(videos)

    def label(indices: range) -> list[Members]:
        labels = labeller(torch.stack([source[index].frames for index in indices]).float() / 255)
        scores = [
            labeller.held_out.get((source.fingerprint, source.keys[index]), score)
            for index, score in zip(indices, labels.score, strict=True)
        ]
        return [_members(*known) for known in zip(scores, labels.elevation, labels.masks[:, :, 0], strict=True)]

    return write_shards(
        folder,
        label,
        len(source),
        settings={**settings, "videos": source.fingerprint},
        keys=source.keys,
        shard_size=[len(shard["samples"]) for shard in source.index["shards"]],
        batch=batch,
        part=part,
        overwrite=overwrite,
        unit="video",
        kind="labels of videos",
        facts=_all_labels,
    )


def _members(score: float, elevation: float, masks: Float[Tensor, "frames h w"]) -> dict[str, bytes]:
    """The labels of one video as `ShardWriter.write` takes them."""
    pixels = (masks * 255).round().byte().numpy()
    members = {f"mask{number:02d}.png": cv2.imencode(".png", mask)[1].tobytes() for number, mask in enumerate(pixels)}
    known = {"score": float(score), "elevation": float(elevation)}
    if not math.isfinite(known["score"]) or not math.isfinite(known["elevation"]):
        raise ValueError(f"a video's labels are {known}: the models that label give numbers that are not finite")
    return {**members, LAST_MEMBER: json.dumps(known, sort_keys=True).encode()}


def _all_labels(paths: Sequence[Path]) -> dict[str, list[Label]]:
    """Scores and elevations from the shards of labels, in their order."""
    labels = []
    for path in paths:
        labels += [parse_json(data, path, Label) for data in last_members(path)]
    return {"labels": labels}
