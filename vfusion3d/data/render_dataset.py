"""The 3D data of the paper: many objects, each rendered from an orbit of cameras, written to shards (section 3.2).

Notable: object `index` depends on (seed, index) and on nothing else, so the data are the same for any number of workers
and after any number of kills (`write_shards`).

Where the objects come from is a function (index, generator) -> Object3D: here `MeshFolder`, in `world.sources` those of
the miniature world.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from vfusion3d import cameras
from vfusion3d.data.mesh_files import MeshFileError, load_mesh, mesh_paths
from vfusion3d.data.shards import encode_sample
from vfusion3d.data.write_shards import Members, write_shards
from vfusion3d.runs.claim import Arguments
from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.ranges import check_ranges

ELEVATION = (0.0, cameras.HIGHEST_ELEVATION)  # section 3.2: one for each object, uniform


@dataclass(frozen=True)
class Object3D:
    """A mesh in the ball of radius 0.75, z up, with its caption and whatever else is worth storing."""

    mesh: trimesh.Trimesh | trimesh.Scene
    caption: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeshFolder:
    """The mesh files of a folder, in the order of their names; a caption is read from a `.txt` of the same name."""

    folder: str

    def __len__(self) -> int:
        return len(mesh_paths(self.folder))

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        path = mesh_paths(self.folder)[index]
        beside = path.with_suffix(".txt")
        caption = path.stem.replace("_", " ")
        if beside.exists():
            caption = beside.read_text(encoding="utf-8", errors="replace").strip()
        known = {"category": "file", "file": path.relative_to(self.folder).as_posix()}
        return Object3D(load_mesh(path), caption, known)


ObjectSource = Callable[[int, np.random.Generator], Object3D]


def render_dataset(
    folder: str | Path,
    objects: ObjectSource,
    count: int | None = None,
    *,
    views: int = 32,
    size: int = 64,
    seed: int = 0,
    workers: int = 1,
    shard_size: int = 100,
    elevation: tuple[float, float] = ELEVATION,
    camera_offset: float = cameras.RENDER_OFFSET,
    backend: str = "pyvista",
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
) -> Path:
    """Render `count` objects from `views` cameras each and write them as shards of `shard_size` objects.

    Cameras: uniform azimuths, one elevation an object, uniform in `elevation` (radians), distance 1.5, each camera
    shifted by U(-camera_offset, camera_offset) world units an axis; the shards hold the true ones. Views are
    `size` x `size`. count may be left out where `objects` has a length. workers: processes; they need `objects` to be
    picklable. part (k, n) renders every n-th shard only, beginning with the k-th: n machines share a folder.

    Interrupted at any moment, the same call goes on where it stopped. An object whose file is broken
    (`MeshFileError`) or cannot be rendered is left out and listed under "skipped" in the index. Returns the path of
    `index.json`, which is written last. Raises ValueError where the folder already holds data of other settings
    (overwrite: they are deleted), for more objects than there are, and for values out of range.
    """
    count = len(objects) if count is None else count
    check_ranges(count=count, views=views, size=size, seed=seed, workers=workers)
    pixels = min(workers, count) * views * size**2
    check_memory(f"{views} views of {size} pixels a side, made by {workers} workers,", 3 * 4 * pixels)
    if hasattr(objects, "__len__") and count > len(objects):
        raise ValueError(f"count is {count}, but there are only {len(objects)} objects")
    job = _Job(objects, views, size, seed, tuple(elevation), camera_offset, backend)
    return write_shards(
        folder,
        job.render,
        count,
        settings=_settings(job, count, shard_size),
        workers=workers,
        shard_size=shard_size,
        part=part,
        overwrite=overwrite,
        unit="object",
    )


@dataclass(frozen=True)
class _Job:
    objects: ObjectSource
    views: int
    size: int
    seed: int
    elevation: tuple[float, float]
    camera_offset: float
    backend: str

    def render(self, indices: range) -> list[Members]:
        """The samples of some objects."""
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> Members:
        from vfusion3d.data.render import render_views

        rng = np.random.default_rng([self.seed, index])
        cam2world, elevation = self.cameras(rng)
        try:
            made = self.objects(index, rng)
        except MeshFileError as error:
            return str(error)
        intrinsics = cameras.default_intrinsics(self.views)
        try:
            rendered = render_views(made.mesh, cam2world, intrinsics, self.size, backend=self.backend)
        except ValueError as error:
            if "file" not in made.metadata:
                raise
            return f"{made.metadata['file']}: cannot be rendered ({error})"
        known = {"source": type(self.objects).__name__, "seed": self.seed, "index": index, "elevation": elevation}
        return encode_sample(rendered.rgba, cam2world, intrinsics, made.caption, made.metadata | known)

    def cameras(self, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        elevation = float(rng.uniform(*self.elevation))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        orbit = cameras.orbit_cameras(self.views, elevation)
        return cameras.offset_cameras(orbit, generator, self.camera_offset), elevation


def _settings(job: _Job, count: int, shard_size: int) -> Arguments:
    source = {"name": type(job.objects).__name__}
    if dataclasses.is_dataclass(job.objects):
        source = Arguments(type(job.objects), source | dataclasses.asdict(job.objects))
    plain = {name: getattr(job, name) for name in ("views", "size", "seed", "elevation", "camera_offset", "backend")}
    return Arguments(render_dataset, {"objects": source, "count": count, "shard_size": shard_size, **plain})
