"""From a field to a mesh: marching cubes, with the field evaluated only where the surface can be; then a mesh to keep.

The grid is refined from coarse to fine. Each level halves the spacing, and only the neighbourhood of cells that the
surface crosses (or that come close to the threshold) is evaluated again; everything else keeps its coarse value, which
lies on the same side of the threshold. `finish` makes what people take away of it: one body, smooth, of few faces, and
closed. Decimation is fast-simplification's (quadrics); what it leaves is closed here, for no small library does both.
"""

import fast_simplification
import numpy as np
import torch
import trimesh
from jaxtyping import Float, UInt8
from scipy.ndimage import find_objects
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import max_pool3d, softplus

from vfusion3d.cameras import default_intrinsics, pixel_centres, rays_through
from vfusion3d.model.rendering import Field, interval, ray_weights
from vfusion3d.runs.memory import check_memory

COARSE_POINTS = 64  # the first grid has at least as many points along a side: parts thinner than its spacing get lost
MOST_LEVELS = 2  # halvings of the spacing
WITHIN, WITHIN_AT_LAST = 3.0, 1.2  # factors of the threshold that count as near it; the last level is the costly one
OUTLINE_SIZE = 48  # pixels a side of the views, and samples along a ray, by which `outline_threshold` is chosen
OUTLINE_SAMPLES = 64
FAINTEST = 1.0  # density per world unit: the threshold where no ray is half opaque
FACES = 20_000
SPARE = 0.003  # of the budget of faces, for what closing a decimated mesh adds
SMOOTHING = 10  # passes of Taubin's filter, each in and out again
PLACE = 1e-6  # world units between places where vertices can be


class NoSurfaceError(ValueError):
    """The field stays on one side of the threshold everywhere."""


def extract_mesh(
    field: Field,
    planes: Float[Tensor, "1 3 channels res res"],
    resolution: int = 256,
    threshold: float = 1.0,
    radius: float | None = None,
    closed: bool = False,
    coloured: bool = True,
) -> trimesh.Trimesh:
    """The surface where the density crosses `threshold`, as a mesh with vertex colours, in world coordinates.

    resolution: points along each side of [-1, 1]^3, ends included. threshold: density per world unit. radius: of the
    ball around the origin outside of which there is nothing; None: the whole cube. closed: close what reaches the end
    of the cube there. coloured: look the colours up. Raises NoSurfaceError where the density never crosses the
    threshold, ValueError for a resolution under 8 and for one that this machine cannot hold.
    """
    if resolution < 8:
        raise ValueError(f"a mesh needs a grid of at least 8 points a side, not {resolution}")
    check_memory(f"a mesh of {resolution} points a side", 4 * resolution**3)
    with torch.no_grad():
        table = field.table(planes)
        density = density_grid(field, table, resolution, threshold, radius)
    inside = density > threshold
    if not inside.any() or inside.all():
        raise NoSurfaceError(
            f"the density, {density.min():.3g} to {density.max():.3g}, never crosses {threshold:g}: "
            "nothing was reconstructed here, or the threshold is off"
        )
    lower, volume = _crop(density, inside)
    if closed:
        lower, volume = lower - 1, np.pad(volume, 1)
    vertices, faces, _, _ = marching_cubes(volume, threshold)
    vertices = ((vertices + lower) * (2 / (resolution - 1)) - 1).clip(-1, 1)  # array axes are x, y, z
    # skimage's triangles turn against the gradient of the density: outward normals want the other order.
    mesh = trimesh.Trimesh(vertices, faces[:, ::-1], process=False)
    if coloured:
        mesh.visual.vertex_colors = colours_at(field, planes, mesh.vertices)
    return mesh


def colours_at(
    field: Field, planes: Float[Tensor, "1 3 channels res res"], points: Float[np.ndarray, "points 3"]
) -> UInt8[np.ndarray, "points 3"]:
    """The field's colours at world points, sRGB as uint8."""
    where = torch.as_tensor(np.array(points, np.float32), device=planes.device)
    with torch.no_grad():
        rgb, _ = field.in_chunks(
            field.table(planes), planes.shape[-1], where, where.new_zeros(len(where), dtype=torch.int)
        )
    return (rgb.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)


@torch.no_grad()
def outline_threshold(
    field: Field,
    planes: Float[Tensor, "1 3 channels res res"],
    cam2world: Float[Tensor, "views 3 4"],
    radius: float | None = None,
) -> float:
    """The density, per world unit, at which the mesh has the outline of the pictures: what is half opaque is inside.

    A ray meets the surface of a threshold where its largest density exceeds that. So the threshold is the one that as
    many rays exceed as are half opaque, in small views from these cameras. `FAINTEST` where no ray is half opaque.
    """
    pixels = pixel_centres(OUTLINE_SIZE, planes.device).expand(1, len(cam2world), -1, -1)
    cameras = cam2world.to(planes.device, torch.float32)
    intrinsics = default_intrinsics(len(cam2world)).to(planes.device)
    origins, directions = (rays.flatten(0, 2) for rays in rays_through(pixels, cameras[None], intrinsics[None]))
    near, far = interval(origins, directions, radius)
    meets = far > near
    origins, directions, near, far = origins[meets], directions[meets], near[meets], far[meets]
    t = near[:, None] + (far - near)[:, None] * torch.linspace(0, 1, OUTLINE_SAMPLES, device=planes.device)
    points = (origins[:, None] + t[..., None] * directions[:, None]).flatten(0, 1)
    table, first = field.table(planes), points.new_zeros(len(points), dtype=torch.int)
    _, raw = field.in_chunks(table, planes.shape[-1], points, first)
    raw = raw.view(t.shape)
    seen = int((ray_weights(t, raw).sum(1) > 0.5).sum())
    if not seen:
        return FAINTEST
    return softplus(raw.amax(1) - 1).sort(descending=True).values[seen - 1].item()


def finish(mesh: trimesh.Trimesh, faces: int | None = FACES, keep_all: bool = False) -> trimesh.Trimesh:
    """A closed mesh as people take it away: its largest body, smooth, of at most so many faces, closed still.

    Nothing of colours is kept. Smoothing is Taubin's (1995): it moves vertices in and out again, so that nothing
    shrinks. faces: None keeps them all. keep_all: keep the other bodies, and the surfaces of hollows; else
    `metadata["left_out"]` is their part of the surface.
    """
    mesh = whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    mesh = mesh if keep_all else _largest(mesh)
    left_out = 1 - mesh.area / whole.area
    trimesh.smoothing.filter_taubin(mesh, iterations=SMOOTHING)
    mesh = trimesh.Trimesh(*_closed(mesh.vertices.astype(np.float32), mesh.faces), process=False)
    budget = faces and max(4, int(faces * (1 - SPARE)))
    while faces is not None and len(mesh.faces) > faces:
        points, triangles = fast_simplification.simplify(
            np.float32(mesh.vertices), np.int32(mesh.faces), target_count=budget, agg=5
        )
        fewer = trimesh.Trimesh(*_closed(points, triangles), process=False)
        fewer = fewer if keep_all else _largest(fewer)
        if len(fewer.faces) <= faces or budget <= 4:
            mesh = fewer
            break
        budget = max(4, budget - (len(fewer.faces) - faces))  # what closing it added
    mesh.remove_unreferenced_vertices()
    mesh.metadata["left_out"] = left_out
    return mesh


def _largest(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The body with the largest surface."""
    body = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    largest = np.bincount(body, weights=mesh.area_faces).argmax()
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces[body == largest], process=False)
    mesh.remove_unreferenced_vertices()
    return mesh


def _closed(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with two faces at every edge, and no two vertices in one place, which readers of files would join.

    Where a thin part closes, decimation leaves edges of four faces. Two of them, which turn along the edge in opposite
    ways, get a middle of their own, a little aside; two that have the same corners enclose nothing, and go.
    """
    points, joined = _places(points)
    faces = joined[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    while True:
        halves = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)  # three a face
        ends = np.sort(halves, axis=1).astype(np.int64)
        _, edge, count = np.unique(ends[:, 0] * len(points) + ends[:, 1], return_inverse=True, return_counts=True)
        crowded = np.flatnonzero(count[edge] > 2)
        if not len(crowded):
            return points, faces
        crowded = crowded[np.argsort(edge[crowded], kind="stable")]
        gone, new_points, new_faces = set(), [], []
        for one in np.split(crowded, np.flatnonzero(np.diff(edge[crowded])) + 1):
            a, b = sorted(halves[one[0]])
            along, back = ([h // 3 for h in one if halves[h][0] == start] for start in (a, b))
            if not along or not back or gone & {along[0], back[0]}:
                continue
            gone |= {along[0], back[0]}
            c, d = (next(v for v in faces[face] if v not in (a, b)) for face in (along[0], back[0]))
            if c != d:
                middle = len(points) + len(new_points)
                new_points.append(0.475 * (points[a] + points[b]) + 0.025 * (points[c] + points[d]))
                new_faces += [(a, middle, c), (middle, b, c), (b, middle, d), (middle, a, d)]
        if not gone:
            return points, faces
        points = np.concatenate([points, np.reshape(new_points, (-1, 3))])
        faces = np.concatenate([np.delete(faces, list(gone), axis=0), np.reshape(new_faces, (-1, 3)).astype(int)])


def _places(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct points, moved by half a millionth at most, sorted; and which of them each point is."""
    low = np.floor(points.min(0) / PLACE)
    place = np.rint(points / PLACE - low).astype(np.int64)
    _, width, depth = (int(most) + 1 for most in place.max(0))
    keys, joined = np.unique((place[:, 0] * width + place[:, 1]) * depth + place[:, 2], return_inverse=True)
    distinct = np.stack([keys // depth // width, keys // depth % width, keys % depth], axis=1)
    return (distinct + low) * PLACE, joined


def density_grid(
    field: Field,
    table: Float[Tensor, "rows hidden"],
    resolution: int,
    threshold: float,
    radius: float | None = None,
) -> Float[Tensor, "x y z"]:
    """Density at `resolution`^3 points of [-1, 1]^3, exact near the surface, on the right side elsewhere."""
    ticks = torch.linspace(-1, 1, resolution, device=table.device)

    raw_at = field.on_grid(table, ticks)

    def density_at(index: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        index = torch.stack(index, dim=-1)
        density = softplus(raw_at(index) - 1)
        return density if radius is None else density * (ticks[index].norm(dim=-1) <= radius)

    step = 2 ** min(MOST_LEVELS, max(0, (resolution // COARSE_POINTS).bit_length() - 1))
    axis = _level(resolution, step, ticks.device)
    density = density_at([g.reshape(-1) for g in torch.meshgrid(axis, axis, axis, indexing="ij")])
    density = density.view([len(axis)] * 3)
    while step > 1:
        step //= 2
        finer = _level(resolution, step, ticks.device)
        near = _near_surface(density, threshold, WITHIN if step > 1 else WITHIN_AT_LAST)
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


def _near_surface(density: Float[Tensor, "x y z"], threshold: float, within: float) -> Tensor:
    """Cells that the threshold crosses, or that come within a factor of it, and their neighbours."""
    high = max_pool3d(density[None, None], 2, 1)
    low = -max_pool3d(-density[None, None], 2, 1)
    crossed = ((high > threshold / within) & (low < threshold * within)).float()
    return max_pool3d(crossed, 3, 1, padding=1)[0, 0] > 0


def _crop(density: Tensor, inside: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The box around the surface, so that marching cubes does not walk through empty space; and where it begins."""
    (found,) = find_objects(inside.numpy().astype(np.uint8))
    box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in found)
    return np.array([side.start for side in box]), np.ascontiguousarray(density[box].numpy())
