"""Some samples of a data set, perhaps with some of their views only: what an ablation takes away (section 4.3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vfusion3d.data.shards import MultiviewSample, MultiviewShards
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.runs.claim import short_name


class Subset(Sequence):
    """The samples `indices` of `shards`, in this order, read as `MultiviewShards` is.

    views: the stored views that are there, in this order; None for all. Raises ValueError for an empty subset, and
    where a sample is named twice, or a sample or a view is not there.
    """

    def __init__(
        self, shards: MultiviewShards | SyntheticShards, indices: Sequence[int], views: Sequence[int] | None = None
    ):
        self.shards = shards
        self.indices = [int(index) for index in indices]
        self.views = None if views is None else [int(view) for view in views]
        if not self.indices:
            raise ValueError(f"a subset of {shards.folder} has no samples: name one at least")
        if len(set(self.indices)) < len(self.indices):
            raise ValueError(f"a subset of {shards.folder} names a sample twice")
        if not 0 <= min(self.indices) <= max(self.indices) < len(shards):
            raise ValueError(f"{shards.folder} has the samples 0 to {len(shards) - 1}, a subset names others")
        if self.views is not None:
            for index in self.indices:
                stored = len(shards.picture_names(index))
                if not all(0 <= view < stored for view in self.views) or not self.views:
                    raise ValueError(f"sample {shards.keys[index]} has {stored} views, a subset names {self.views}")
        self.keys = [shards.keys[index] for index in self.indices]

    @property
    def folder(self) -> Path:
        """Where the whole data set lies."""
        return self.shards.folder

    @property
    def fingerprint(self) -> str:
        """A short name of the data: other samples, another order or other views have another one."""
        return f"{self.shards.fingerprint}-{short_name(f'{self.indices} {self.views}')}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> MultiviewSample:
        return self.read(index)

    def read(self, index: int, views: Sequence[int] | None = None) -> MultiviewSample:
        """Sample `index` of the subset with some of its views (all by default), counted within the subset's."""
        if self.views is not None:
            views = self.views if views is None else [self.views[view] for view in views]
        return self.shards.read(self.indices[index], views)

    def metadata(self, index: int) -> dict[str, Any]:
        """What is known of a sample."""
        return self.shards.metadata(self.indices[index])

    def picture_names(self, index: int) -> list[str]:
        """The views of a sample."""
        names = self.shards.picture_names(self.indices[index])
        return names if self.views is None else [names[view] for view in self.views]
