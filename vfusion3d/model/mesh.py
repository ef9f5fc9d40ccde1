"""From a field to a mesh: marching cubes, with the field evaluated only where the surface can be.

The grid is refined from coarse to fine. Each level halves the spacing, and only the neighbourhood of cells that the
surface crosses (or that come close to the threshold) is evaluated again; everything else keeps its coarse value, which
lies on the same side of the threshold.
"""

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from scipy.ndimage import find_objects
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import max_pool3d, softplus

from vfusion3d.model.rendering import Field
from vfusion3d.runs.memory import check_memory

COARSE_POINTS = 64  # the first grid has at least as many points along a side: parts thinner than its spacing get lost
MOST_LEVELS = 2  # halvings of the spacing


class NoSurfaceError(ValueError):
    """The field stays on one side of the threshold everywhere."""


def extract_mesh(
    field: Field,
    planes: Float[Tensor, "1 3 channels res res"],
    resolution: int = 256,
    threshold: float = 1.0,
    radius: float | None = None,
) -> trimesh.Trimesh:
    """The surface where the density crosses `threshold`, as a mesh with vertex colours, in world coordinates.

    resolution: points along each side of [-1, 1]^3, ends included. threshold: density per world unit.
    radius: of the ball around the origin outside of which there is nothing; None: the whole cube.
    Raises NoSurfaceError where the density never crosses the threshold, ValueError for a resolution under 8 and
    for one that this machine cannot hold.
    """
    if resolution < 8:
        raise ValueError(f"a mesh needs a grid of at least 8 points a side, not {resolution}")
    check_memory(f"a mesh of {resolution} points a side", 4 * resolution**3)
    with torch.no_grad():
        table = field.table(planes)
        density = density_grid(field, table, planes.shape[-1], resolution, threshold, radius)
        inside = density > threshold
        if not inside.any() or inside.all():
            raise NoSurfaceError(
                f"the density, {density.min():.3g} to {density.max():.3g}, never crosses {threshold:g}: "
                "nothing was reconstructed here, or the threshold is off"
            )
        lower, volume = _crop(density, inside)
        vertices, faces, _, _ = marching_cubes(volume.numpy(), threshold)
        vertices = (vertices + lower) * (2 / (resolution - 1)) - 1  # array axes are x, y, z
        points = torch.as_tensor(vertices.copy(), dtype=torch.float32, device=planes.device)
        rgb, _ = field.in_chunks(table, planes.shape[-1], points, points.new_zeros(len(points), dtype=torch.int))
    colours = (rgb.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)
    # skimage's triangles turn against the gradient of the density: outward normals want the other order.
    return trimesh.Trimesh(vertices, faces[:, ::-1], vertex_colors=colours, process=False)


def density_grid(
    field: Field,
    table: Float[Tensor, "rows hidden"],
    plane_resolution: int,
    resolution: int,
    threshold: float,
    radius: float | None = None,
) -> Float[Tensor, "x y z"]:
    """Density at `resolution`^3 points of [-1, 1]^3, exact near the surface, on the right side elsewhere."""
    ticks = torch.linspace(-1, 1, resolution, device=table.device)

    def density_at(index: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        points = torch.stack([ticks[i] for i in index], dim=-1)
        _, raw = field.in_chunks(table, plane_resolution, points, points.new_zeros(len(points), dtype=torch.int))
        density = softplus(raw - 1)
        return density if radius is None else density * (points.norm(dim=-1) <= radius)

    step = 2 ** min(MOST_LEVELS, max(0, (resolution // COARSE_POINTS).bit_length() - 1))
    axis = _level(resolution, step, ticks.device)
    density = density_at([g.reshape(-1) for g in torch.meshgrid(axis, axis, axis, indexing="ij")])
    density = density.view([len(axis)] * 3)
    while step > 1:
        step //= 2
        finer = _level(resolution, step, ticks.device)
        near = _near_surface(density, threshold)
        parent = torch.searchsorted(axis, finer, right=True) - 1  # the coarse point at or before each finer one
        density = density[parent][:, parent][:, :, parent]
        cell = parent.clamp(max=len(axis) - 2)
        i, j, k = near[cell][:, cell][:, :, cell].nonzero(as_tuple=True)
        density[i, j, k] = density_at((finer[i], finer[j], finer[k]))
        axis = finer
    return density.cpu()


def _level(resolution: int, step: int, device) -> Tensor:
    """Every step-th index of the full grid, and its last."""
    index = torch.arange(0, resolution, step, device=device)
    return index if index[-1] == resolution - 1 else torch.cat([index, index.new_tensor([resolution - 1])])


def _near_surface(density: Float[Tensor, "x y z"], threshold: float) -> Tensor:
    """Cells that the threshold crosses, or that come within a factor of 3 of it, and their neighbours."""
    high = max_pool3d(density[None, None], 2, 1)
    low = -max_pool3d(-density[None, None], 2, 1)
    crossed = ((high > threshold / 3) & (low < threshold * 3)).float()
    return max_pool3d(crossed, 3, 1, padding=1)[0, 0] > 0


def _crop(density: Tensor, inside: Tensor) -> tuple[np.ndarray, Tensor]:
    """The box around the surface, so that marching cubes does not walk through empty space; and where it begins."""
    (found,) = find_objects(inside.numpy().astype(np.uint8))
    box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in found)
    return np.array([side.start for side in box]), density[box].contiguous()
