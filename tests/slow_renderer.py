"""The renderer's slow twin: every sample of every ray, plain `grid_sample`, nothing skipped, nothing precomputed.

Written from the description of the released model alone; it shares no code with `vfusion3d.model.rendering`.
"""

import torch
import torch.nn.functional as F


def field(net, planes, points):
    """net: the field's Linear/ReLU stack. planes (1, 3, C, R, R), points (P, 3) -> rgb (P, 3), raw density (P,)."""
    x, y, z = points.unbind(-1)
    pairs = [torch.stack(pair, dim=-1) for pair in ((x, y), (x, z), (z, y))]
    features = [
        F.grid_sample(planes[:, i], at[None, None], mode="bilinear", padding_mode="zeros", align_corners=False)[0, :, 0]
        for i, at in enumerate(pairs)
    ]
    out = net(torch.cat(features).T)
    return torch.sigmoid(out[:, 1:]) * 1.002 - 0.001, out[:, 0]


def alphas(t, raw):
    density = F.softplus((raw[:, :-1] + raw[:, 1:]) / 2 - 1)
    return 1 - torch.exp(-density * (t[:, 1:] - t[:, :-1]))


def weights(t, raw):
    alpha = alphas(t, raw)
    passing = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], dim=1), dim=1)[:, :-1]
    return alpha * passing


def render(net, planes, cam2world, intrinsics, size, samples=128):
    """One view, (3, size, size) colour and (1, size, size) opacity; samples at the middle of their strata."""
    fx, fy, cx, cy = intrinsics.tolist()
    v, u = torch.meshgrid((torch.arange(size) + 0.5) / size, (torch.arange(size) + 0.5) / size, indexing="ij")
    local = torch.stack([(u - cx) / fx, -(v - cy) / fy, -torch.ones_like(u)], dim=-1).reshape(-1, 3)
    directions = F.normalize(local @ cam2world[:, :3].T, dim=-1)
    origin = cam2world[:, 3]

    t0, t1 = (-1 - origin) / directions, (1 - origin) / directions
    near = torch.minimum(t0, t1).max(dim=-1).values.clamp(min=0)
    far = torch.maximum(t0, t1).min(dim=-1).values
    hit = far > near
    near, far, directions = near[hit], far[hit], directions[hit]

    def evaluate(t):
        points = origin + t[..., None] * directions[:, None]
        outside = (t < near[:, None]) | (t > far[:, None])
        rgb, raw = field(net, planes, points.reshape(-1, 3))
        rgb, raw = rgb.view(*t.shape, 3), raw.view(t.shape)
        return torch.where(outside[..., None], 0.0, rgb), torch.where(outside, -1000.0, raw)

    half = samples // 2
    spacing = (far - near) / (half - 1)
    coarse = near[:, None] + spacing[:, None] * (torch.arange(half) + 0.5)
    coarse_rgb, coarse_raw = evaluate(coarse)

    w = weights(coarse, coarse_raw)
    w = F.avg_pool1d(F.max_pool1d(w[:, None], 2, 1, padding=1), 2, 1)[:, 0] + 0.01
    edges, w = (coarse[:, 1:] + coarse[:, :-1]) / 2, w[:, 1:-1]
    cdf = torch.cumsum(w / w.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=-1)
    u = (torch.arange(half) + 0.5) / half
    fine = torch.empty_like(coarse)
    for sample, value in enumerate(u.tolist()):
        above = (cdf <= value).sum(dim=1).clamp(1, cdf.shape[1] - 1)[:, None]
        low, high = cdf.gather(1, above - 1), cdf.gather(1, above)
        start, end = edges.gather(1, above - 1), edges.gather(1, above)
        fine[:, sample] = (start + (value - low) / (high - low) * (end - start))[:, 0]
    fine_rgb, fine_raw = evaluate(fine)

    t, order = torch.sort(torch.cat([coarse, fine], dim=1), dim=1)
    raw = torch.cat([coarse_raw, fine_raw], dim=1).gather(1, order)
    rgb = torch.cat([coarse_rgb, fine_rgb], dim=1).gather(1, order[..., None].expand(-1, -1, 3))
    w = weights(t, raw)[..., None]
    colour, opacity = torch.ones(size * size, 3), torch.zeros(size * size, 1)
    opacity[hit] = w.sum(dim=1)
    colour[hit] = (w * (rgb[:, 1:] + rgb[:, :-1]) / 2).sum(dim=1) + 1 - w.sum(dim=1)
    return colour.T.view(3, size, size), opacity.T.view(1, size, size)


def density_grid(net, planes, resolution, points_at_once=1 << 18):
    """Density at every point of the regular grid of [-1, 1]^3, ends included, `(x, y, z)`."""
    ticks = torch.linspace(-1, 1, resolution)
    points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), dim=-1).reshape(-1, 3)
    raw = torch.cat([field(net, planes, chunk)[1] for chunk in points.split(points_at_once)])
    return F.softplus(raw - 1).view(resolution, resolution, resolution)
