"""Pictures of the inside of VFusion3D, for notebook 05b: features as colours, attention on a picture, a ray."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import interpolate

from vfusion3d.evaluation.figures import BLUE, GREEN, ORANGE, TEXT_WIDTH, paper_style


def as_colours(features: Float[Tensor, "width *places"]) -> Float[Tensor, "3 *places"]:
    """The three directions in which features differ most, as red, green and blue in [0, 1] (2% at each end cut off)."""
    flat = features.detach().float().flatten(1).T.cpu().numpy()
    main = PCA(3, random_state=0).fit_transform(flat)
    low, high = np.quantile(main, [0.02, 0.98], axis=0)
    colours = ((main - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    return torch.from_numpy(colours).float().T.unflatten(1, features.shape[1:])


def attention_on(image: Float[Tensor, "3 size size"], shares: Float[Tensor, "*rows patches"]) -> Tensor:
    """A picture darkened where attention is not: full light at the patch with most of it, (*rows, 3, size, size)."""
    rows, side, size = shares.shape[:-1], round(shares.shape[-1] ** 0.5), image.shape[-1]
    light = interpolate(shares.reshape(-1, 1, side, side), size=(size, size), mode="bilinear")
    light = (light / light.amax((-1, -2), keepdim=True)).view(*rows, 1, size, size)
    return image * (0.12 + 0.88 * light)


def token_at(point: Float[Tensor, "3"], size: int) -> list[tuple[int, int, int]]:
    """The tokens (plane, row, column) over which a point of [-1, 1]^3 lies, on planes (x, y), (x, z), (z, y)."""
    x, y, z = ((point + 1) * (size / 2)).long().clamp(0, size - 1).tolist()
    return [(0, y, x), (1, z, x), (2, y, z)]


def upright(planes: Float[Tensor, "3 channels height width"]) -> Float[Tensor, "3 channels height width"]:
    """Planes (x, y), (x, z), (z, y) as one looks at them: from above, from the side, from the front, z up."""
    return torch.stack([planes[0], planes[1], planes[2].mT]).flip(-2)


def shadows(density: Float[Tensor, "x y z"]) -> Float[Tensor, "3 1 points points"]:
    """What a cube of densities (over [-1, 1]^3) lets through along z, y and x: as `upright` shows the three planes."""
    step = 2 / len(density)
    through = [torch.exp(-step * density.sum(axis)) for axis in (2, 1, 0)]  # (x, y), (x, z), (y, z)
    return upright(torch.stack([through[0].T, through[1].T, through[2]])[:, None])


def ray_plot(
    t: Float[Tensor, " samples"],
    density: Float[Tensor, " samples"],
    weights: Float[Tensor, " samples-1"],
    rgb: Float[Tensor, "samples 3"],
    ticks: Mapping[str, Float[Tensor, " places"]] | None = None,
) -> Figure:
    """What stands along a ray: density (per world unit), weights of the intervals, colours. ticks: samples by name."""
    t, density, weights = (values.detach().cpu().numpy() for values in (t, density, weights))
    colours = rgb.detach().clamp(0, 1).cpu().numpy()
    with paper_style():
        figure = Figure(figsize=(TEXT_WIDTH * 0.9, 2.9), layout="constrained")
        above, middle, below = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [4, 4, 1]})
        above.plot(t, density, color=BLUE, marker=".", markersize=3)
        above.set_ylabel("density σ\n(per world unit)")
        middle.bar(t[:-1], weights, np.diff(t), align="edge", color="0.75", edgecolor="0.35", lw=0.4)
        middle.set_ylabel("weight w\nof the interval")
        for number, (name, places) in enumerate((ticks or {}).items()):
            color, height = (ORANGE, GREEN)[number], middle.get_ylim()[1]
            middle.plot(places, np.full(len(places), -(0.08 + 0.1 * number) * height), "|", color=color, label=name)
        if ticks:
            middle.legend(loc="upper left")
        below.pcolormesh(t, [0, 1], colours[None, :-1], shading="flat")
        below.set(ylabel="colour", yticks=[], xlabel="distance t along the ray (world units)", xlim=(t[0], t[-1]))
        below.grid(visible=False)
        figure.align_ylabels()
    return figure
