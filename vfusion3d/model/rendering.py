"""From feature planes to pictures: the field, the samples along a ray, and their compositing, in one file.

Two facts make it fast. The field's first layer is linear and so is bilinear interpolation, so that layer is applied
to the planes once, before any point is looked up (`Field.table`). And a lookup is then a weighted sum of 12 rows (4
corners on 3 planes), which is what `torch.nn.functional.embedding_bag` computes (`_WeightedRows`). At inference,
space that the field leaves empty is not sampled (`occupancy_grid`). `tests/slow_renderer.py` is the obvious twin that
holds this file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, embedding_bag, grid_sample, linear, max_pool1d, max_pool3d, relu, softplus
from torch.utils.checkpoint import checkpoint

from vfusion3d.cameras import pixel_centres, rays_through
from vfusion3d.learning.draws import Generators, drawn

HIDDEN = 64
EMPTY = -1000.0  # the raw density of a sample outside of the cube or the ball
POINTS_AT_ONCE = 1 << 15  # the lookups of so many points stay in a CPU's cache, and their memory is used again
RAYS_AT_ONCE = 1 << 12  # at inference: bounds memory whatever the image's size
OCCUPANCY_CELLS = (32, 64)  # along a side of the cube: as many as texels along a plane, within these
OCCUPANCY_DENSITY = 1e-3  # a ray of length 2 through less than this is 99.8% background


@dataclass(frozen=True)
class Rendering:
    """What `render` returns. rgb: in about [0, 1] on white. opacity: in [0, 1]. depth: mean distance along the ray of
    what is seen, in world units (0 where nothing is)."""

    rgb: Float[Tensor, "batch views 3 size size"]
    opacity: Float[Tensor, "batch views 1 size size"]
    depth: Float[Tensor, "batch views 1 size size"]


class Field(nn.Module):
    """Three looked-up plane features to a colour and a raw density (`density = softplus(raw - 1)`)."""

    def __init__(self, channels: int):
        super().__init__()
        widths = [3 * channels, HIDDEN, HIDDEN, HIDDEN]
        hidden = [m for i in range(3) for m in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())]
        self.net = nn.Sequential(*hidden, nn.Linear(HIDDEN, 4))

    def table(self, planes: Float[Tensor, "batch 3 channels res res"]) -> Float[Tensor, "batch*3*res*res hidden"]:
        """The first layer applied to every texel: what `lookup` sums up. Always in float32."""
        per_plane = self.net[0].weight.float().unflatten(1, (3, -1))  # (hidden, 3, channels)
        with torch.autocast(planes.device.type, enabled=False):
            return torch.einsum("bpcij,hpc->bpijh", planes.float(), per_plane).reshape(-1, HIDDEN)

    def lookup(
        self,
        table: Float[Tensor, "rows hidden"],
        resolution: int,
        points: Float[Tensor, "points 3"],
        batch: Int[Tensor, "points"],
    ) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points"]]:
        """Colour and raw density at points of [-1, 1]^3, float32. batch: which object of the table each belongs to.

        Under autocast all layers but the first are computed in its type; the first is summed up from the float32 table.
        """
        rows, weights = corners(points, batch, resolution)
        return self._of_sums(_WeightedRows.apply(table, rows, weights))

    def _of_sums(
        self, sums: Float[Tensor, "points hidden"]
    ) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points"]]:
        """What comes after the first layer's products: colour and raw density."""
        device = sums.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        hidden = (sums + self.net[0].bias.float()).to(dtype)
        for layer in (self.net[2], self.net[4], self.net[6]):
            hidden = linear(relu(hidden), layer.weight.to(dtype), layer.bias.to(dtype))
        hidden = hidden.float()
        return torch.sigmoid(hidden[:, 1:]) * 1.002 - 0.001, hidden[:, 0]

    def on_grid(
        self, table: Float[Tensor, "rows hidden"], ticks: Float[Tensor, "ticks"]
    ) -> Callable[[Int[Tensor, "points 3"]], Float[Tensor, "points"]]:
        """The raw density of one object at points of a regular grid, given by their places along x, y and z.

        The planes are interpolated at all pairs of `ticks` once; then a point is a sum of 3 rows, not of 12.
        """
        size, count = round((len(table) / 3) ** 0.5), len(ticks)
        planes = table.view(3, size, size, HIDDEN).permute(0, 3, 1, 2)
        places = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).expand(3, -1, -1, -1)
        at_pairs = grid_sample(planes, places, align_corners=False).permute(0, 2, 3, 1).reshape(-1, HIDDEN)

        def raw(index: Int[Tensor, "points 3"]) -> Float[Tensor, "points"]:
            x, y, z = index.unbind(1)
            rows = torch.stack([y * count + x, (count + z) * count + x, (2 * count + y) * count + z], dim=1)
            parts = rows.split(POINTS_AT_ONCE)
            return torch.cat([self._of_sums(embedding_bag(part, at_pairs, mode="sum"))[1] for part in parts])

        return raw

    def forward(
        self, planes: Float[Tensor, "batch 3 channels res res"], points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points 3"], Float[Tensor, "batch points 1"]]:
        """Colour and raw density at each object's own points."""
        table = self.table(planes)
        b, n, _ = points.shape
        batch = torch.arange(b, device=points.device).repeat_interleave(n)
        rgb, raw = self.in_chunks(table, planes.shape[-1], points.reshape(-1, 3).float(), batch)
        return rgb.view(b, n, 3), raw.view(b, n, 1)

    def in_chunks(
        self, table: Tensor, resolution: int, points: Tensor, batch: Tensor, checkpointing: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`lookup`, some points at a time: with gradients too that is 1.7 times faster on a CPU."""
        look_up = partial(checkpoint, self.lookup, use_reentrant=False) if checkpointing else self.lookup
        chunks = zip(points.split(POINTS_AT_ONCE), batch.split(POINTS_AT_ONCE), strict=True)
        rgb, raw = zip(*(look_up(table, resolution, p, b) for p, b in chunks), strict=True)
        if len(rgb) == 1:
            return rgb[0], raw[0]
        return torch.cat(rgb), torch.cat(raw)


def corners(
    points: Float[Tensor, "points 3"], batch: Int[Tensor, "points"], resolution: int
) -> tuple[Int[Tensor, "points 12"], Float[Tensor, "points 12"]]:
    """Rows of the table and their bilinear weights for points on planes (x, y), (x, z), (z, y), zero outside.

    The first coordinate of a plane runs along its width; pixel centres lie at half-integers (`align_corners=False`).
    """
    position = (points + 1) * (resolution / 2) - 0.5
    low = position.floor()
    fraction = position - low
    cell = torch.stack([low, low + 1], dim=-1).int()  # (points, 3 axes, 2 neighbours)
    weight = torch.stack([1 - fraction, fraction], dim=-1) * ((cell >= 0) & (cell < resolution))
    cell = cell.clamp(0, resolution - 1)
    (x, y, z), (wx, wy, wz) = cell.unbind(1), weight.unbind(1)
    start = (3 * resolution * resolution * batch.int())[:, None, None]
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    for plane, (column, row, wc, wr) in enumerate(((x, y, wx, wy), (x, z, wx, wz), (z, y, wz, wy))):
        rows.append(start + (plane * resolution + row[:, :, None]) * resolution + column[:, None, :])
        weights.append(wr[:, :, None] * wc[:, None, :])
    return torch.stack(rows, dim=1).flatten(1), torch.stack(weights, dim=1).flatten(1)


class _WeightedRows(torch.autograd.Function):
    """sum_k weights[p, k] * table[rows[p, k]]. Its gradient for the table is the same operation the other way round:
    sorted by row, each row of the table is a weighted sum of the points that read it. 9 times faster on a CPU than
    `embedding_bag`'s own backward at 100,000 points."""

    @staticmethod
    def forward(ctx, table: Tensor, rows: Int[Tensor, "points k"], weights: Float[Tensor, "points k"]) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.table_rows = len(table)
        return embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, gradient: Float[Tensor, "points hidden"]):
        rows, weights = ctx.saved_tensors
        order = torch.sort(rows.flatten(), stable=True)
        counts = torch.bincount(order.values, minlength=ctx.table_rows)
        starts = (counts.cumsum(0) - counts).int()
        readers = torch.div(order.indices, rows.shape[1], rounding_mode="floor").int()
        weights = weights.flatten()[order.indices]
        return embedding_bag(readers, gradient.contiguous(), starts, per_sample_weights=weights, mode="sum"), None, None


def render(
    field: Field,
    planes: Float[Tensor, "batch 3 channels res res"],
    cam2world: Float[Tensor, "batch views 3 4"],
    intrinsics: Float[Tensor, "batch views 4"],
    size: int,
    *,
    samples: int = 128,
    generator: torch.Generator | None = None,
    skip_empty: bool | None = None,
    radius: float | None = None,
) -> Rendering:
    """Square pictures of `size` pixels of each object from its own cameras, on a white background.

    samples: along each ray, half of them coarse. generator: jitters the samples as in training; without one the result
    is deterministic. skip_empty: leave out empty space (by default when no gradient is needed). radius: of the ball
    around the origin outside of which there is nothing, in world units; None: the whole cube.
    """
    b, v = cam2world.shape[:2]
    pixels = pixel_centres(size, planes.device).expand(b, v, -1, -1)
    origins, directions = rays_through(pixels, cam2world.float(), intrinsics.float())
    rays = (origins.flatten(1, 2), directions.flatten(1, 2))
    if torch.is_grad_enabled():
        rgb, opacity, depth = render_rays(field, planes, *rays, samples=samples, generator=generator, radius=radius)
    else:
        skip_empty = True if skip_empty is None else skip_empty
        parts = []
        for one in range(b):
            scene = planes[one : one + 1]
            table = field.table(scene)
            occupied = occupancy_grid(field, table, scene.shape[-1]) if skip_empty else None
            for ray in zip(*(r[one : one + 1].split(RAYS_AT_ONCE, dim=1) for r in rays), strict=True):
                part = render_rays(
                    field,
                    scene,
                    *ray,
                    samples=samples,
                    generator=generator,
                    table=table,
                    occupied=occupied,
                    radius=radius,
                )
                parts.append(part)
        rgb, opacity, depth = (torch.cat([p[0] for p in part]) for part in zip(*parts, strict=True))

    def to_image(values: Tensor) -> Tensor:
        return values.reshape(b, v, size, size, -1).movedim(-1, 2)

    return Rendering(to_image(rgb), to_image(opacity), to_image(depth))


def render_rays(
    field: Field,
    planes: Float[Tensor, "batch 3 channels res res"],
    origins: Float[Tensor, "batch rays 3"],
    directions: Float[Tensor, "batch rays 3"],
    *,
    samples: int = 128,
    generator: Generators | None = None,
    table: Float[Tensor, "rows hidden"] | None = None,
    occupied: Bool[Tensor, "cells cells cells"] | None = None,
    radius: float | None = None,
    checkpointing: bool = False,
) -> tuple[Float[Tensor, "batch rays 3"], Float[Tensor, "batch rays 1"], Float[Tensor, "batch rays 1"]]:
    """Colour on white, opacity and depth of rays with unit directions. Differentiable in the planes and the field.

    generator: jitters the samples, one for all objects or one for each. table: `field.table(planes)` where it is at
    hand. occupied: `occupancy_grid` (for one object) to skip empty space.
    radius: of the ball around the origin outside of which there is nothing: rays that miss it cost nothing, and all
    samples of the others lie in it. None: the cube [-1, 1]^3. checkpointing: keep nothing of a chunk of samples but its
    result, and compute it again for the gradient.
    """
    if samples < 8 or samples % 2:
        raise ValueError(f"samples is {samples}; half of them are coarse and half fine: give an even number from 8 up")
    table = field.table(planes) if table is None else table
    b, n = origins.shape[:2]
    moved = placed = None
    if generator is not None:
        jitter = drawn(torch.rand, (b, n, samples), generator).to(origins.device).flatten(0, 1)
        moved, placed = jitter.chunk(2, dim=1)
    batch = torch.arange(b, device=origins.device).repeat_interleave(n)
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    near, far = interval(origins, directions, radius)
    coarse = stratified_samples(near, far, samples // 2, moved)

    hit = far > near
    if occupied is not None:
        hit &= (_between(coarse, near, far) & _is_occupied(origins, directions, coarse, occupied)).any(-1)
    rgb, opacity, depth = origins.new_ones(b * n, 3), origins.new_zeros(b * n, 1), origins.new_zeros(b * n, 1)
    alive = hit.nonzero().squeeze(1)
    if len(alive):
        origins, directions, batch, coarse = origins[alive], directions[alive], batch[alive], coarse[alive]
        near, far = near[alive], far[alive]
        placed = None if placed is None else placed[alive]

        def evaluate(t: Tensor) -> tuple[Tensor, Tensor]:
            wanted = _between(t, near, far)
            if occupied is not None:
                wanted &= _is_occupied(origins, directions, t, occupied)
            return _evaluate(field, table, planes.shape[-1], origins, directions, t, batch, wanted, checkpointing)

        coarse_rgb, coarse_raw = evaluate(coarse)
        with torch.no_grad():
            fine = importance_samples(coarse, ray_weights(coarse, coarse_raw), samples // 2, placed)
        fine_rgb, fine_raw = evaluate(fine)

        t, order = torch.cat([coarse, fine], dim=1).sort(dim=1)
        raw = torch.cat([coarse_raw, fine_raw], dim=1).gather(1, order)
        colour = torch.cat([coarse_rgb, fine_rgb], dim=1).gather(1, order[..., None].expand(-1, -1, 3))
        weights = ray_weights(t, raw)[..., None]
        seen = weights.sum(1)
        colour = (weights * (colour[:, 1:] + colour[:, :-1]) / 2).sum(1) + 1 - seen
        distance = (weights[..., 0] * (t[:, 1:] + t[:, :-1]) / 2).sum(1, keepdim=True) / seen.clamp(min=1e-3)
        rgb, opacity, depth = (
            a.index_copy(0, alive, v) for a, v in ((rgb, colour), (opacity, seen), (depth, distance))
        )
    return rgb.view(b, n, 3), opacity.view(b, n, 1), depth.view(b, n, 1)


def interval(
    origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"], radius: float | None
) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave what is rendered: the ball of that radius, or without one the cube."""
    return cube_interval(origins, directions) if radius is None else ball_interval(origins, directions, radius)


def cube_interval(origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave the cube [-1, 1]^3, `(rays,)` each; far <= near where they miss it."""
    directions = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    sides = torch.stack([(-1 - origins) / directions, (1 - origins) / directions])
    return sides.amin(0).amax(-1).clamp(min=0), sides.amax(0).amin(-1)


def ball_interval(
    origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"], radius: float
) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave the ball around the origin, `(rays,)` each; far <= near where they miss.

    With unit directions d: |o + t d| = radius at t = -o.d -+ sqrt((o.d)^2 - o.o + radius^2).
    """
    middle = -(origins * directions).sum(-1)
    half = (middle.square() - origins.square().sum(-1) + radius**2).clamp(min=0).sqrt()
    return (middle - half).clamp(min=0), middle + half


def stratified_samples(
    near: Float[Tensor, "rays"], far: Float[Tensor, "rays"], count: int, moved: Float[Tensor, "rays count"] | None
) -> Float[Tensor, "rays count"]:
    """Evenly spaced from entry to exit inclusive, each moved on by a part of the spacing, by default half of it."""
    steps = torch.linspace(0, 1, count, device=near.device)
    spacing = ((far - near) / (count - 1))[:, None]
    return near[:, None] + (far - near)[:, None] * steps + spacing * (0.5 if moved is None else moved)


def importance_samples(
    t: Float[Tensor, "rays coarse"],
    weights: Float[Tensor, "rays coarse-1"],
    count: int,
    u: Float[Tensor, "rays count"] | None,
) -> Float[Tensor, "rays count"]:
    """Samples drawn from the coarse weights, smoothed by a max-pool of 2 then an average-pool of 2, plus 0.01.

    u: uniform in [0, 1), where in their distribution to draw; by default evenly.
    """
    smooth = avg_pool1d(max_pool1d(weights[:, None], 2, 1, padding=1), 2, 1)[:, 0] + 0.01
    middles = (t[:, 1:] + t[:, :-1]) / 2
    cdf = (smooth[:, 1:-1] / smooth[:, 1:-1].sum(-1, keepdim=True)).cumsum(-1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=-1)  # one entry an edge; the edges are the middles
    if u is None:
        u = ((torch.arange(count, device=t.device) + 0.5) / count).expand(len(t), -1)
    above = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, cdf.shape[1] - 1)
    below = above - 1
    left, right = cdf.gather(1, below), cdf.gather(1, above)
    part = ((u - left) / (right - left).clamp(min=1e-8)).clamp(0, 1)
    start, end = middles.gather(1, below), middles.gather(1, above)
    return start + part * (end - start)


def ray_weights(
    t: Float[Tensor, "rays samples"], raw: Float[Tensor, "rays samples"]
) -> Float[Tensor, "rays samples-1"]:
    """Compositing weights of the intervals between neighbouring samples.

    alpha_i = 1 - exp(-softplus((raw_i + raw_{i+1}) / 2 - 1) (t_{i+1} - t_i)), w_i = alpha_i prod_{j<i} (1 - alpha_j)
    """
    optical = softplus((raw[:, 1:] + raw[:, :-1]) / 2 - 1) * (t[:, 1:] - t[:, :-1])
    return -torch.expm1(-optical) * torch.exp(optical - optical.cumsum(-1))


def occupancy_grid(field: Field, table: Float[Tensor, "rows hidden"], resolution: int) -> Bool[Tensor, "z y x"]:
    """Which cells of the cube hold anything, by the field at their corners, with one cell of margin."""
    fewest, most = OCCUPANCY_CELLS
    cells = min(max(resolution, fewest), most)
    ticks = torch.linspace(-1, 1, cells + 1, device=table.device)
    points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij")[::-1], dim=-1).reshape(-1, 3)
    _, raw = field.in_chunks(table, resolution, points, points.new_zeros(len(points), dtype=torch.int))
    dense = (softplus(raw - 1) > OCCUPANCY_DENSITY).float().view(1, 1, *[cells + 1] * 3)
    return max_pool3d(max_pool3d(dense, 2, 1), 3, 1, padding=1)[0, 0] > 0


def _evaluate(field, table, resolution, origins, directions, t, batch, wanted, checkpointing) -> tuple[Tensor, Tensor]:
    """Colour (rays, samples, 3) and raw density (rays, samples); where none is wanted colour 0 and no density."""
    ray, sample = wanted.nonzero(as_tuple=True)
    points = origins[ray] + t[ray, sample][:, None] * directions[ray]
    rgb, raw = field.in_chunks(table, resolution, points, batch[ray], checkpointing)
    where = ray * t.shape[1] + sample
    full_rgb = rgb.new_zeros(t.numel(), 3).index_copy(0, where, rgb)
    full_raw = raw.new_full((t.numel(),), EMPTY).index_copy(0, where, raw)
    return full_rgb.view(*t.shape, 3), full_raw.view(t.shape)


def _between(t: Float[Tensor, "rays samples"], near: Tensor, far: Tensor) -> Bool[Tensor, "rays samples"]:
    return (t >= near[:, None]) & (t <= far[:, None])


def _is_occupied(origins: Tensor, directions: Tensor, t: Tensor, occupied: Tensor) -> Bool[Tensor, "rays samples"]:
    cells = occupied.shape[0]
    start, step = (origins + 1) * (cells / 2), directions * (cells / 2)
    index = [(start[:, a, None] + t * step[:, a, None]).long().clamp_(0, cells - 1) for a in range(3)]
    return occupied.view(-1)[(index[2] * cells + index[1]) * cells + index[0]]
