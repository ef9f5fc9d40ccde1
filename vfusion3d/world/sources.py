"""Where objects to render come from in the miniature world: sources for `render_dataset`, and the sets of a run."""

import dataclasses
from dataclasses import dataclass, replace

import numpy as np

from vfusion3d.data.render_dataset import MeshFolder, Object3D, ObjectSource
from vfusion3d.data.views import TEST_VIEWS
from vfusion3d.runs import layout
from vfusion3d.runs.profiles import Profile
from vfusion3d.world.catalogue import COMMON
from vfusion3d.world.objects import build_mesh, describe
from vfusion3d.world.primitives import random_primitives
from vfusion3d.world.unseen import UNSEEN_SEED, VALIDATION_SEED, UnseenObjects, held_out, sample_apart

LARGEST_SHARE = 4  # of a folder of meshes, at most one in so many is held out for the test, and for validation


@dataclass(frozen=True)
class ProceduralObjects:
    """Random objects of the miniature world, of the given categories (default: those of `DRAWN`).

    apart_from: a run's seed; no object means the same as what that run holds out for its tests (`held_out`).
    """

    categories: tuple[str, ...] | None = None
    apart_from: int | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        spec = sample_apart(rng, self.categories, frozenset() if self.apart_from is None else held_out(self.apart_from))
        metadata = {"category": spec.category, "spec": dataclasses.asdict(spec)}
        return Object3D(build_mesh(spec), describe(spec), metadata)


@dataclass(frozen=True)
class RandomPrimitives:
    """Clusters of 1 to 5 primitives of no category: what the bundled base learns from."""

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        return Object3D(random_primitives(rng), "", {"category": "primitives"})


@dataclass(frozen=True)
class DataSet:
    """One of a run's sets of objects, as `render_dataset` takes it; artifact: the layout's, where it goes.

    count: None for all that there are.
    """

    artifact: layout.Artifact
    objects: ObjectSource
    count: int | None
    views: int
    seed: int


def data_sets(profile: Profile, seed: int = 0, meshes: MeshFolder | None = None) -> list[DataSet]:
    """The 3D data, the validation objects and the test objects of a run, of which no two sets share an object.

    meshes: takes the place of the procedural world; of its files the profile's numbers are held out, but at most a
    quarter for the test and a quarter for validation. Raises ValueError for a folder of fewer than 4 different meshes.
    """
    data = profile.data
    counts = [data.objects_3d, data.validation_objects, data.test_objects]
    test = seed + UNSEEN_SEED
    seeds = [seed, seed + VALIDATION_SEED, test]
    sources = [ProceduralObjects(COMMON, apart_from=seed), UnseenObjects(apart_from=test), UnseenObjects()]
    if meshes is not None:
        most = len(meshes) // LARGEST_SHARE
        divided = tuple(min(most, count) for count in counts[1:])
        sources = [replace(meshes, part=part, held_out=divided) for part in ("train", "validation", "test")]
        if not all(map(len, sources)):
            raise ValueError(
                f"{meshes.folder}: {len(meshes)} mesh files with too few different captions to hold some out for a "
                "test: give 4 at least, each with a caption of its own, or -o FOLDER for one set of all"
            )
        counts = [min(count, len(source)) for count, source in zip(counts, sources)]
    artifacts = (layout.objects_3d, layout.validation_data, layout.test_data)
    views = (data.views_3d, TEST_VIEWS, TEST_VIEWS)
    return [DataSet(*one) for one in zip(artifacts, sources, counts, views, seeds)]
