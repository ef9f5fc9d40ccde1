"""The 3D data of the paper: many objects, each rendered from an orbit of cameras, written to shards (section 3.2).

Notable: object `index` depends on (seed, index) and on nothing else, so the data are the same for any number of workers
and after any number of kills (`write_shards`).

Where the objects come from is a function (index, generator) -> Object3D: here `MeshFolder`, in `world.sources` those of
the miniature world.
"""

import contextlib
import dataclasses
import functools
import hashlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vfusion3d import cameras
from vfusion3d.data.guard import Guarded, LimitError, Limits
from vfusion3d.data.mesh_files import MeshFileError, load_mesh, mesh_paths, passed_over
from vfusion3d.data.shards import encode_sample
from vfusion3d.data.write_shards import Members, skipped_samples, write_shards
from vfusion3d.runs.claim import SETTINGS, Arguments, read_record
from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.ranges import check_ranges

LIMITS = Limits()
LEAST_SEEN = 0.001  # of a view's area: less is a blank view
ELEVATION = (0.0, cameras.HIGHEST_ELEVATION)  # section 3.2: one for each object, uniform


@dataclass(frozen=True)
class Object3D:
    """A mesh in the ball of radius 0.75, z up, with its caption and whatever else is worth storing."""

    mesh: trimesh.Trimesh | trimesh.Scene
    caption: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeshFolder:
    """The mesh files of a folder, in the order of their names; a caption is read from a `.txt` of the same name.

    up: the up axis of all of them ("x", "y" or "z"), by default that of each one's format (`load_mesh`). part: only the
    files of one part of the folder, of which held_out says how many "validation" and "test" hold. Which ones hangs on
    names and captions alone; files with the same caption or the same bytes are never in two parts.
    """

    folder: str
    up: str | None = None
    part: Literal["train", "validation", "test"] | None = None
    held_out: tuple[int, int] = (0, 0)

    @functools.cached_property
    def paths(self) -> list[Path]:
        every = mesh_paths(self.folder)
        return every if self.part is None else self._divided(every)[self.part]

    def _divided(self, every: list[Path]) -> dict[str, list[Path]]:
        alike: dict[Any, list[int]] = defaultdict(list)
        sizes = Counter(path.stat().st_size for path in every if path.is_file())
        for place, path in enumerate(every):
            alike[" ".join(self._caption(path).lower().split())].append(place)
            if path.is_file() and sizes[path.stat().st_size] > 1:
                with path.open("rb") as file:
                    alike[hashlib.file_digest(file, "sha256").digest()].append(place)
        rows, columns = zip(*((places[0], place) for places in alike.values() for place in places))
        _, group = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=[len(every)] * 2))
        members = [[path for path, of in zip(every, group) if of == one] for one in range(group.max() + 1)]
        parts: dict[str, list[Path]] = {"validation": [], "test": [], "train": []}
        for one in np.random.default_rng(0).permutation(len(members)):
            for part, room in zip(parts, (*self.held_out, len(every))):
                if len(parts[part]) + len(members[one]) <= room:
                    parts[part] += members[one]
                    break
        return {part: sorted(paths) for part, paths in parts.items()}

    def _caption(self, path: Path) -> str:
        beside = path.with_suffix(".txt")
        if beside.is_file():
            return beside.read_text(encoding="utf-8", errors="replace").strip()
        return path.stem.replace("_", " ")

    def __len__(self) -> int:
        return len(self.paths)

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        path = self.paths[index]
        known = {"category": "file", "file": path.relative_to(self.folder).as_posix()}
        mesh = load_mesh(path, self.up)
        if "left_out" in mesh.metadata:
            known["left_out"] = mesh.metadata["left_out"]
        return Object3D(mesh, self._caption(path), known)


ObjectSource = Callable[[int, np.random.Generator], Object3D]


def object_draws(
    seed: int, index: int, elevation: tuple[float, float] = ELEVATION
) -> tuple[np.random.Generator, float, int]:
    """What is random in object `index`: the generator that its source gets, its elevation in radians, and the seed of
    its cameras' offsets."""
    rng = np.random.default_rng([seed, index])
    return rng, float(rng.uniform(*elevation)), int(rng.integers(2**63))


def made_of_files(folder: str | Path) -> bool:
    """Whether `render_dataset` wrote this folder, whole or in part, from a `MeshFolder`. Raises ReadingError."""
    path = Path(folder) / SETTINGS
    made_of = read_record(path).get("objects") if path.exists() else None
    return isinstance(made_of, dict) and made_of.get("name") == MeshFolder.__name__


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
    limits: Limits = LIMITS,
) -> Path:
    """Render `count` objects from `views` cameras each and write them as shards of `shard_size` objects.

    Cameras: uniform azimuths, one elevation an object, uniform in `elevation` (radians), distance 1.5, each camera
    shifted by U(-camera_offset, camera_offset) world units an axis; the shards hold the true ones. Views are
    `size` x `size`. count may be left out where `objects` has a length. workers: processes; they need `objects` to be
    picklable. part (k, n) renders every n-th shard only, beginning with the k-th: n machines share a folder.
    limits: of each object of a `MeshFolder`, in time and memory.

    Interrupted at any moment, the same call goes on where it stopped. An object whose file is broken
    (`MeshFileError`), cannot be rendered within its limits or is as good as invisible from one of its cameras is left
    out and listed under "skipped" in the index, which names files of other formats under "passed_over". What a file
    asks for and is not drawn stands in the sample's metadata, under "left_out". Returns the path of
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
    files = isinstance(objects, MeshFolder)
    with _Guards(job, limits) as guards:
        return write_shards(
            folder,
            guards.render if files else job.render,
            count,
            settings=_settings(job, count, shard_size),
            workers=workers,
            threads=files,
            shard_size=shard_size,
            part=part,
            overwrite=overwrite,
            unit="object",
            kind="rendered objects",
            facts=partial(_facts_of_files, objects) if files else None,
        )


def _facts_of_files(objects: MeshFolder, paths: Sequence[Path]) -> dict[str, Any]:
    other = [path.relative_to(objects.folder).as_posix() for path in passed_over(objects.folder)]
    return skipped_samples(paths) | {"passed_over": other}


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

        rng, elevation, jitter = object_draws(self.seed, index, self.elevation)
        orbit = cameras.orbit_cameras(self.views, elevation)
        cam2world = cameras.offset_cameras(orbit, torch.Generator().manual_seed(jitter), self.camera_offset)
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
            return f"{self._path(made)}: cannot be rendered ({error})"
        seen = rendered.rgba[..., 3].mean(axis=(1, 2)) / 255
        if seen.min() < LEAST_SEEN and "file" in made.metadata:
            blank = int((seen < LEAST_SEEN).sum())
            return f"{self._path(made)}: there is as good as nothing to see in {blank} of its {self.views} views"
        known = {"source": type(self.objects).__name__, "seed": self.seed, "index": index, "elevation": elevation}
        return encode_sample(rendered.rgba, cam2world, intrinsics, made.caption, made.metadata | known)

    def _path(self, made: Object3D) -> Path:
        return Path(self.objects.folder, made.metadata["file"])


class _Guards(contextlib.AbstractContextManager):
    """A job whose objects are made in other processes, one for each thread that asks."""

    def __init__(self, job: _Job, limits: Limits):
        self._job, self._limits, self._mine, self._all = job, limits, threading.local(), []

    def render(self, indices: range) -> list[Members]:
        """The samples of some objects; one that took too much has a reason in its place."""
        if not hasattr(self._mine, "guarded"):
            self._mine.guarded = Guarded(self._job.render, self._limits)
            self._all.append(self._mine.guarded)
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> Members:
        try:
            (members,) = self._mine.guarded(range(index, index + 1))
        except LimitError as error:
            return f"{self._job.objects.paths[index]}: {error}"
        return members

    def __exit__(self, *reason) -> None:
        for guarded in self._all:
            guarded.close()


def _settings(job: _Job, count: int, shard_size: int) -> Arguments:
    source = {"name": type(job.objects).__name__}
    if dataclasses.is_dataclass(job.objects):
        source = Arguments(type(job.objects), source | dataclasses.asdict(job.objects))
    plain = {name: getattr(job, name) for name in ("views", "size", "seed", "elevation", "camera_offset", "backend")}
    return Arguments(render_dataset, {"objects": source, "count": count, "shard_size": shard_size, **plain})
