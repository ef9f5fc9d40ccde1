"""Three baselines that keep the model honest, each a `protocol.Predictor`: they know no 3D at all.

A model that only learned "objects are on white" ties with the white image; one that ignores the wanted camera ties with
the repeated input; one that memorised the training set ties with retrieval, which is the strongest of the three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vfusion3d.cameras import default_intrinsics, look_at_origin, sphere_position, turn_to_input
from vfusion3d.data.images import on_white, resize
from vfusion3d.data.shards import MultiviewSample, MultiviewShards
from vfusion3d.evaluation.protocol import Predictor
from vfusion3d.runs.progress import tqdm


def white(image: Tensor, input_camera: tuple, cam2world: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """A white image for every wanted view, `(B, V, 3, size, size)`."""
    return torch.ones(*cam2world.shape[:2], 3, size, size, device=image.device)


def repeat_input(image: Tensor, input_camera: tuple, cam2world: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """The input view for every wanted view, `(B, V, 3, size, size)`."""
    return resize(image, size)[:, None].expand(-1, cam2world.shape[1], -1, -1, -1)


@dataclass(frozen=True)
class RetrievalIndex:
    """Unit features of every stored view of a training set, and which object and view each one is."""

    shards: MultiviewShards | Sequence[MultiviewSample]
    features: Float[Tensor, "entries d"]
    objects: Int[Tensor, " entries"]
    views: Int[Tensor, " entries"]

    def nearest(self, features: Float[Tensor, "b d"]) -> list[tuple[int, int]]:
        """The (object, view) whose features have the largest cosine similarity to each given image's."""
        entries = (_unit(features) @ self.features.T).argmax(dim=1)
        return list(zip(self.objects[entries].tolist(), self.views[entries].tolist(), strict=True))


def build_index(
    shards: MultiviewShards | Sequence[MultiviewSample],
    image_features: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> RetrievalIndex:
    """Index all views of all training objects by `image_features`: images (B, 3, H, W) in [0, 1] -> (B, D).

    `device` is where `image_features` wants its images; the index itself stays in main memory.
    Raises ValueError for an empty training set.
    """
    if len(shards) == 0:
        raise ValueError("the training set has no objects to retrieve: render it first")
    features: list[Tensor] = []
    objects: list[int] = []
    views: list[int] = []
    for index in tqdm(range(len(shards)), desc="indexing for retrieval", unit="object"):
        images = on_white(shards[index].rgba.to(device))
        with torch.no_grad():
            features += [_unit(image_features(batch)).cpu() for batch in images.split(batch_size)]
        objects += [index] * len(images)
        views += range(len(images))
    return RetrievalIndex(shards, torch.cat(features), torch.tensor(objects), torch.tensor(views))


def retrieval(index: RetrievalIndex, image_features: Callable[[Tensor], Tensor]) -> Predictor:
    """The training object that looks most like the input, shown through its stored views.

    The object is turned so that its matching view stands at azimuth 0, as the input does; each wanted camera then gets
    the stored view whose camera stands in the nearest direction from the origin, which may be the matching view itself.
    """

    @torch.no_grad()
    def predict(image, input_camera, cam2world, intrinsics, size):
        found = []
        matches = index.nearest(image_features(image).cpu())
        for (nearest_object, nearest_view), wanted in zip(matches, cam2world.cpu(), strict=True):
            sample = index.shards[nearest_object]
            stored = turn_to_input(sample.cam2world, sample.cam2world[nearest_view])
            closest = (_unit(wanted[..., 3]) @ _unit(stored[..., 3]).T).argmax(dim=1)
            found.append(resize(on_white(sample.rgba[closest]), size))
        return torch.stack(found).to(image.device)

    return predict


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


Elevation = Callable[[Float[Tensor, "B 3 H W"], Float[Tensor, "B 3 4"]], Float[Tensor, " B"]]


def told_only(predict: Predictor, elevation: Elevation) -> Predictor:
    """`predict`, told that its input was seen from distance 1.5 and the elevation (radians) that `elevation` says.

    elevation(image, cam2world): of the input and its true camera, which only a method that may cheat looks at. The
    wanted views keep their true cameras, so a wrong elevation tilts the object in all of them.
    """

    def without_camera(image, input_camera, cam2world, intrinsics, size):
        assumed = elevation(image, input_camera[0]).to(torch.float32).cpu()
        camera = look_at_origin(sphere_position(0.0, assumed)), default_intrinsics(len(assumed))
        return predict(image, tuple(part.to(image.device) for part in camera), cam2world, intrinsics, size)

    return without_camera
