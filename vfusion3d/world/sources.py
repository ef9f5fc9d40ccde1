"""Where objects to render come from in the miniature world: sources for `render_dataset`."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from vfusion3d.data.render_dataset import Object3D
from vfusion3d.world.objects import build_mesh, describe, sample_object
from vfusion3d.world.primitives import random_primitives


@dataclass(frozen=True)
class ProceduralObjects:
    """Random objects of the miniature world, of the given categories (default: those of `DRAWN`)."""

    categories: tuple[str, ...] | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        spec = sample_object(rng, self.categories)
        metadata = {"category": spec.category, "spec": dataclasses.asdict(spec)}
        return Object3D(build_mesh(spec), describe(spec), metadata)


@dataclass(frozen=True)
class RandomPrimitives:
    """Clusters of 1 to 5 primitives of no category: what the bundled base learns from."""

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        return Object3D(random_primitives(rng), "", {"category": "primitives"})
