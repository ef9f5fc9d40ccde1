"""What if nobody tells the model the camera of its input, as for a photo? It is then told an elevation only."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.cameras import default_intrinsics, look_at_origin, sphere_position
from vfusion3d.evaluation.protocol import Predictor

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
