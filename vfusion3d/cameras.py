"""The one camera convention of the project, and the orbits and noises of the paper.

World: right-handed, z up, azimuth 0 at +x and growing towards +y. A camera is a camera-to-world matrix `(..., 3, 4)`
with OpenGL axes (x right, y up, looking along -z) and intrinsics `(..., 4)`: fx, fy, cx, cy divided by the image's
size. With the default f = 0.75 and distance 1.5, the picture spans exactly the width of the cube [-1, 1] at the origin.
Angles are radians.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ORBIT_DISTANCE = 1.5
INTRINSICS = (0.75, 0.75, 0.5, 0.5)
HIGHEST_ELEVATION = math.pi / 4  # section 3.2: the 3D data are seen from elevations between 0 and this
RENDER_OFFSET = 0.05  # section 3.3: each camera of a rendered orbit is shifted by up to this much
TRAINING_NOISE = 0.02  # section 3.3: what training adds to extrinsics and intrinsics


def default_intrinsics(*shape: int) -> Float[Tensor, "*shape 4"]:
    """The default fx, fy, cx, cy, repeated to `(*shape, 4)`."""
    return torch.tensor(INTRINSICS).expand(*shape, 4).clone()


def sphere_position(
    azimuth: Tensor | float, elevation: Tensor | float, distance: Tensor | float = ORBIT_DISTANCE
) -> Tensor:
    """The point at (azimuth, elevation) radians and `distance` world units from the origin, `(..., 3)`."""
    given = (torch.as_tensor(a, dtype=torch.float32) for a in (azimuth, elevation, distance))
    azimuth, elevation, distance = torch.broadcast_tensors(*given)
    flat = distance * elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), distance * elevation.sin()], dim=-1)


def look_at_origin(position: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 4"]:
    """Camera-to-world matrices of cameras at `position` (world units) that look at the origin with z up.

    Raises ValueError where the view direction would be vertical, since "up" then says nothing.
    """
    backward = torch.nn.functional.normalize(position, dim=-1)
    if (backward[..., :2].norm(dim=-1) < 1e-6).any():
        raise ValueError("a camera straight above or below the origin has no up direction: move it off the z axis")
    up = torch.tensor([0.0, 0.0, 1.0], dtype=position.dtype, device=position.device).expand_as(position)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=-1)
    return torch.stack([right, torch.linalg.cross(backward, right), backward, position], dim=-1)


def orbit_cameras(
    views: int, elevation: float, distance: float = ORBIT_DISTANCE, azimuth: float = 0.0
) -> Float[Tensor, "views 3 4"]:
    """Cameras at uniform azimuths on a circle around the z axis, all looking at the origin (section 3.2).

    elevation, azimuth: radians; the first camera stands at `azimuth`. distance: world units.
    Returns camera-to-world matrices, OpenGL axes. Raises ValueError where the view direction would be vertical.
    """
    azimuths = azimuth + torch.arange(views) * (2 * math.pi / views)
    return look_at_origin(sphere_position(azimuths, elevation, distance))


def azimuth_elevation_distance(cam2world: Float[Tensor, "*batch 3 4"]) -> tuple[Tensor, Tensor, Tensor]:
    """Where the cameras stand: azimuth and elevation in radians, distance in world units, each `(*batch,)`."""
    x, y, z = cam2world[..., 3].unbind(-1)
    distance = cam2world[..., 3].norm(dim=-1)
    return torch.atan2(y, x), torch.asin((z / distance).clamp(-1, 1)), distance


def is_rotation(matrices: Float[Tensor, "*batch 3 3"], tolerance: float = 1e-3) -> Bool[Tensor, "*batch"]:
    """Whether matrices turn without scaling or mirroring: R R^T = 1 and det R = 1, up to the tolerance."""
    error = (matrices @ matrices.mT - torch.eye(3).to(matrices)).abs().amax(dim=(-1, -2))
    return (error < tolerance) & (torch.linalg.det(matrices) > 0)


def turn_world(cam2world: Float[Tensor, "*batch views 3 4"], angle: Float[Tensor, "*batch"]) -> Tensor:
    """The same cameras after the world has been turned about z by `angle` radians, `(*batch, views, 3, 4)`."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
    return turn[..., None, :, :] @ cam2world


def turn_to_input(
    cam2world: Float[Tensor, "*batch views 3 4"], input_view: Float[Tensor, "*batch 3 4"]
) -> Float[Tensor, "*batch views 3 4"]:
    """Turn the world about z so that the input view stands at azimuth 0: the frame in which the model works."""
    azimuth, _, _ = azimuth_elevation_distance(input_view)
    return turn_world(cam2world, -azimuth)


def offset_cameras(
    cam2world: Float[Tensor, "*batch 3 4"], generator: torch.Generator, amount: float = RENDER_OFFSET
) -> Float[Tensor, "*batch 3 4"]:
    """Shift each camera by U(-amount, amount) world units along each axis: the noise of rendered data (section 3.3)."""
    shifted = cam2world.clone()
    shifted[..., 3] += _uniform(cam2world[..., 3], amount, generator)
    return shifted


def add_camera_noise(
    cam2world: Float[Tensor, "*batch 3 4"],
    intrinsics: Float[Tensor, "*batch 4"],
    generator: torch.Generator,
    amount: float = TRAINING_NOISE,
) -> tuple[Tensor, Tensor]:
    """Camera noise injection of training: U(-amount, amount) on every number of both matrices (section 3.3)."""
    return (cam2world + _uniform(cam2world, amount, generator), intrinsics + _uniform(intrinsics, amount, generator))


def camera_vector(
    cam2world: Float[Tensor, "*batch 3 4"], intrinsics: Float[Tensor, "*batch 4"]
) -> Float[Tensor, "*batch 16"]:
    """The model's camera condition: the 3x4 matrix row by row, then fx, fy, cx, cy."""
    return torch.cat([cam2world.flatten(-2), intrinsics], dim=-1)


def project(
    points: Float[Tensor, "*batch points 3"],
    cam2world: Float[Tensor, "*batch 3 4"],
    intrinsics: Float[Tensor, "*batch 4"],
) -> tuple[Float[Tensor, "*batch points 2"], Float[Tensor, "*batch points"]]:
    """Where world points appear: (u, v) over the image's size, v downwards, and the distance along the viewing axis.

    A pixel in column i of an image of `size` pixels has its centre at u = (i + 0.5) / size.
    """
    local = (points - cam2world[..., None, :, 3]) @ cam2world[..., :3]
    depth = -local[..., 2]
    focal, centre = intrinsics[..., None, :2], intrinsics[..., None, 2:]
    flip = torch.tensor([1.0, -1.0], dtype=points.dtype, device=points.device)
    return centre + focal * flip * local[..., :2] / depth[..., None], depth


def rays_through(
    pixels: Float[Tensor, "*batch rays 2"],
    cam2world: Float[Tensor, "*batch 3 4"],
    intrinsics: Float[Tensor, "*batch 4"],
) -> tuple[Float[Tensor, "*batch rays 3"], Float[Tensor, "*batch rays 3"]]:
    """Rays through image positions (u, v) in [0, 1], v downwards: origins and unit directions in the world."""
    offset = (pixels - intrinsics[..., None, 2:]) / intrinsics[..., None, :2]
    local = torch.stack([offset[..., 0], -offset[..., 1], -torch.ones_like(offset[..., 0])], dim=-1)
    directions = torch.nn.functional.normalize(local @ cam2world[..., :3].mT, dim=-1)
    return cam2world[..., None, :, 3].expand_as(directions), directions


def pixel_centres(size: int, device: torch.device | str = "cpu") -> Float[Tensor, "size*size 2"]:
    """(u, v) of the pixel centres of a square image, row by row."""
    ticks = (torch.arange(size, device=device) + 0.5) / size
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([u, v], dim=-1).reshape(-1, 2)


def _uniform(like: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    noise = torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return ((2 * noise - 1) * amount).to(like.device)
