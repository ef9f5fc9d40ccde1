"""What one training step sees: an input view, its camera, and the pixels of a few views to reproduce (section 3.3).

The world is turned about z so that the input view stands at azimuth 0. The first supervision view is the input itself,
the others come from the rest of the orbit. Everything is drawn from the numbers of the step and of the place in its
batch, so any step can be repeated, in any pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from vfusion3d.cameras import add_camera_noise, camera_vector, turn_to_input
from vfusion3d.data.images import on_white, premultiplied, resize
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.learning.draws import Generators, drawn, generator_of, sample_generators
from vfusion3d.learning.loop import samples_of_step
from vfusion3d.runs.profiles import Recipe
from vfusion3d.training.schedule import render_resolution

CACHE_BYTES = 4 << 30  # data sets up to this size are decoded once and kept in memory
NEAR_OBJECT = 0.85  # where single rays are drawn: this share within a few pixels of the object


@dataclass(frozen=True)
class Batch:
    """B inputs and V views of each to reproduce, each through N pixels: a patch row by row, or scattered rays.

    patch: side of the square patch, None for scattered rays. intrinsics are those of the whole view.
    """

    keys: list[str]
    image: Float[Tensor, "B 3 height width"]
    camera: Float[Tensor, "B 16"]
    cam2world: Float[Tensor, "B V 3 4"]
    intrinsics: Float[Tensor, "B V 4"]
    pixels: Float[Tensor, "B V N 2"]
    rgb: Float[Tensor, "B V N 3"]
    mask: Float[Tensor, "B V N 1"]
    patch: int | None


class Supervision:
    """Batches of a data set for a recipe; `batch(step, places)` is a function of its arguments and the seed alone.

    image_size: pixels a side of the input. total_steps: of the whole run, which the stages divide among them.
    Raises ValueError where the data have fewer views than the recipe wants.
    """

    def __init__(
        self,
        shards: MultiviewShards | SyntheticShards,
        recipe: Recipe,
        image_size: int,
        total_steps: int,
        seed: int = 0,
    ):
        self.shards, self.recipe, self.image_size = shards, recipe, image_size
        self.total_steps, self.seed = total_steps, seed
        first = shards[0].rgba  # every object of a data set has as many views
        self.view_count = len(first)
        if self.view_count < recipe.views:
            raise ValueError(
                f"the recipe wants {recipe.views} views of an object, {shards.folder} has {self.view_count}"
            )
        self._cached = [None] * len(shards) if first.numel() * len(shards) <= CACHE_BYTES else None

    def batch(self, step: int, places: Sequence[int] | None = None) -> Batch:
        """What stands at these places (all: `range(recipe.batch_size)`) in the batch of a step (section 3.3)."""
        recipe = self.recipe
        places = range(recipe.batch_size) if places is None else places
        generators = sample_generators(self.seed + 1, step, places)
        objects = samples_of_step(step, places, batch_size=recipe.batch_size, count=len(self.shards), seed=self.seed)
        picked = [self._views(index, own) for index, own in zip(objects, generators, strict=True)]
        keys, rgba, cam2world, intrinsics = zip(*picked, strict=True)
        rgba, cam2world, intrinsics = torch.stack(rgba), torch.stack(cam2world), torch.stack(intrinsics)
        cam2world = turn_to_input(cam2world, cam2world[:, 0])
        if recipe.variety:
            rgba, cam2world, intrinsics = varied(rgba, cam2world, intrinsics, generators)

        source, lens = cam2world[:, 0], intrinsics[:, 0]
        if recipe.camera_noise:
            cameras = zip(source, lens, generators, strict=True)
            noised = [add_camera_noise(*camera, recipe.camera_noise) for camera in cameras]
            source, lens = map(torch.stack, zip(*noised, strict=True))
        image = resize(on_white(rgba[:, 0]), self.image_size)

        of_step = generator_of(self.seed + 1, step, recipe.batch_size)  # a place that no sample has
        resolution = render_resolution(recipe, step, self.total_steps, of_step)
        views = resize(premultiplied(rgba.flatten(0, 1)), resolution).unflatten(0, rgba.shape[:2])
        if recipe.rays_per_view:
            pixels = scattered_pixels(views[:, :, 3], recipe.rays_per_view, generators)
            patch = None
        else:
            patch = min(recipe.patch_size, resolution)
            pixels = patch_pixels(*rgba.shape[:2], resolution, patch, generators)
        seen = views.flatten(3).gather(3, pixels[:, :, None].expand(-1, -1, 4, -1)).mT  # (B, V, N, 4)
        colour, mask = seen.split([3, 1], dim=-1)
        where = torch.stack([pixels % resolution, pixels // resolution], dim=-1).add(0.5).div(resolution)
        return Batch(
            keys=list(keys),
            image=image,
            camera=camera_vector(source, lens),
            cam2world=cam2world,
            intrinsics=intrinsics,
            pixels=where,
            rgb=colour + 1 - mask,
            mask=mask,
            patch=patch,
        )

    def _views(self, index: int, generator: torch.Generator) -> tuple[str, Tensor, Tensor, Tensor]:
        """The input view and others of one object: key, uint8 (V, 4, H, W), cameras, intrinsics."""
        chosen = torch.randperm(self.view_count, generator=generator)[: self.recipe.views].tolist()
        if self._cached is None:
            sample = self.shards.read(index, views=chosen)
            return sample.key, sample.rgba, sample.cam2world, sample.intrinsics
        if self._cached[index] is None:
            self._cached[index] = self.shards[index]
        sample = self._cached[index]
        return sample.key, sample.rgba[chosen], sample.cam2world[chosen], sample.intrinsics[chosen]


def varied(
    rgba: UInt8[Tensor, "B V 4 H W"],
    cam2world: Float[Tensor, "B V 3 4"],
    intrinsics: Float[Tensor, "B V 4"],
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """The same objects, every other one (at random) mirrored left-right, and all in other colours.

    The mirror is the plane y = 0, in which a camera at azimuth 0 stands: pictures flip left-right, and a camera's right
    stays right. Red, green and blue change places.
    """
    rgba, cam2world, intrinsics = rgba.clone(), cam2world.clone(), intrinsics.clone()
    for one, generator in enumerate(generators):
        order = torch.randperm(3, generator=generator).tolist()
        rgba[one] = rgba[one, :, [*order, 3]]
        if torch.rand((), generator=generator) < 0.5:
            rgba[one] = rgba[one].flip(-1)
            cam2world[one, :, 1] *= -1
            cam2world[one, :, :, 0] *= -1
            intrinsics[one, :, 2] = 1 - intrinsics[one, :, 2]
    return rgba, cam2world, intrinsics


def patch_pixels(batch: int, views: int, resolution: int, patch: int, generator: Generators) -> Int[Tensor, "B V N"]:
    """Flat pixel indices of a random patch in each view, row by row."""
    room = resolution - patch + 1
    row, column = drawn(partial(torch.randint, room), (batch, views, 2, 1, 1), generator).unbind(2)
    row, column = row + torch.arange(patch)[:, None], column + torch.arange(patch)
    return (row * resolution + column).flatten(2)


def scattered_pixels(
    mask: Float[Tensor, "B V H W"], count: int, generators: Sequence[torch.Generator]
) -> Int[Tensor, "B V N"]:
    """Flat pixel indices, most of them drawn on or near the object, the others anywhere."""
    near = (max_pool2d(mask, 7, 1, padding=3) > 0).float().flatten(2)
    share = near / near.sum(-1, keepdim=True).clamp(min=1)
    chance = NEAR_OBJECT * share + (1 - NEAR_OBJECT) / share.shape[-1]
    pairs = zip(chance, generators, strict=True)
    return torch.stack([torch.multinomial(views, count, replacement=True, generator=own) for views, own in pairs])
