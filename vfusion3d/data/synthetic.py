"""Labelled synthetic videos as multi-view samples: what VFusion3D is pre-trained on (section 3.3)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
import torch

from vfusion3d import cameras
from vfusion3d.data.shards import Label, MultiviewSample, Shards, VideoShards
from vfusion3d.runs.reading import ReadingError, read_value

MASK_THRESHOLD = 0.5  # from which a soft mask counts as the object


class _OfVideos(TypedDict):
    videos: str


class _Labels(TypedDict):
    settings: _OfVideos
    labels: list[Label]


def read_labels(folder: str | Path) -> tuple[Shards, list[Label], str]:
    """The shards of labels, what each says beside its masks, and the fingerprint of the videos that they are of.

    Raises FileNotFoundError without an index, ReadingError that names it and the key.
    """
    shards = Shards(folder)
    try:
        index = read_value(_Labels, shards.index)
        if (count := len(index["labels"])) != len(shards):
            raise ReadingError(f"labels: {count} for {len(shards)} samples")
        for place, label in enumerate(index["labels"]):
            if abs(label["elevation"]) >= math.pi / 2:
                raise ReadingError(
                    f"labels[{place}].elevation must be below 90 degrees, not {label['elevation']} radians"
                )
    except ReadingError as error:
        raise ReadingError(f"{shards.folder / 'index.json'}: {error}: label the videos again") from error
    return shards, index["labels"], index["settings"]["videos"]


class SyntheticShards(Sequence):
    """Labelled videos as multi-view samples: what VFusion3D is pre-trained on (section 3.3).

    videos, labels: the two folders. threshold: videos with a lower score are left out; None keeps all. A sample's
    cameras are the orbit at the predicted elevation; what its mask leaves out is transparent. Raises ValueError where
    the labels are not of these videos, and where no video reaches the threshold.
    """

    def __init__(self, videos: str | Path, labels: str | Path, threshold: float | None = 0.0):
        self.videos = VideoShards(videos)
        self.labels, self.facts, of = read_labels(labels)
        self.folder = self.videos.folder
        if of != self.videos.fingerprint or self.labels.keys != self.videos.keys:
            raise ValueError(f"{labels} are not the labels of {videos}: label these videos again")
        least = -np.inf if threshold is None else threshold
        self.kept = [place for place, facts in enumerate(self.facts) if facts["score"] >= least]
        if not self.kept:
            raise ValueError(f"none of the {len(self.facts)} videos in {videos} has a score of {threshold} or more")
        self.keys = [self.videos.keys[index] for index in self.kept]
        self.threshold = threshold

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> MultiviewSample:
        return self.read(index)

    @property
    def fingerprint(self) -> str:
        """A short name of videos, labels and threshold."""
        return f"{self.videos.fingerprint}-{self.labels.fingerprint}-{self.threshold}"

    def picture_names(self, index: int) -> list[str]:
        """The frames of a sample."""
        return self.videos.picture_names(self.kept[index])

    def metadata(self, index: int) -> dict[str, Any]:
        """What is known of a video, its labels included."""
        return {**self.videos.metadata(self.kept[index]), **self.facts[self.kept[index]]}

    def read(self, index: int, views: Sequence[int] | None = None) -> MultiviewSample:
        """Sample `index` with the given frames (all by default), in this order."""
        place = self.kept[index]
        stored = len(self.picture_names(index))
        chosen = list(range(stored)) if views is None else [int(view) for view in views]
        colour = self.videos.pictures(place, chosen)
        mask = np.stack([self._mask(place, view % stored, colour.shape[1:3]) for view in chosen])
        mask = mask > 255 * MASK_THRESHOLD
        rgba = np.concatenate([colour, np.where(mask, 255, 0).astype(np.uint8)[..., None]], axis=-1)
        orbit = cameras.orbit_cameras(stored, self.facts[place]["elevation"])
        return MultiviewSample(
            key=self.keys[index],
            rgba=torch.from_numpy(rgba).permute(0, 3, 1, 2).contiguous(),
            cam2world=orbit[chosen],
            intrinsics=cameras.default_intrinsics(len(chosen)),
            caption=self.videos.caption(place),
            metadata=self.metadata(index),
        )

    def _mask(self, place: int, view: int, shape: tuple[int, int]) -> np.ndarray:
        data = np.frombuffer(self.labels.member(place, f"mask{view:02d}.png"), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if mask is None or mask.shape != shape or mask.dtype != np.uint8:
            raise self.labels.damaged(place, f"mask {view} is not a grey PNG of the frame's size")
        return mask
