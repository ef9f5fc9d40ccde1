"""Every picture of the project in one style: the shared look, how it is saved, and the pictures that recur.

Figures are plain `matplotlib.figure.Figure` objects, sized in inches for a printed page (`TEXT_WIDTH` is the paper's
column), with curves that differ in line style as well as in colour, so that they can be read in grey. `save` writes a
vector PDF and a PNG, and the same figure gives the same bytes.
"""

import io
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vfusion3d.cameras import INTRINSICS
from vfusion3d.data.images import uniform_frames
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.pictures import fewer_levels, smaller_png

TEXT_WIDTH = 6.3  # inches
MARGIN = 0.02  # inches around a page
GAP = 0.04  # between the images of a sheet, as a part of an image's width
TITLE = 0.23  # inches of a title
LINE = 0.19  # and of a line of a label
COLUMNS = 8  # of a film strip

STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), True, use_default_template=False)
DPI = STYLE["savefig.dpi"]
BLUE, ORANGE, GREEN, PURPLE, GREY, RED = STYLE["axes.prop_cycle"].by_key()["color"]


def show_in_notebooks() -> None:
    """Let a figure that ends a notebook cell show as a picture, whatever the backend; called on import.

    pyplot would do so as well, but then shows every figure a second time at the end of the cell.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(shell, {"png"})


show_in_notebooks()


def paper_style():
    """The shared style, as a context: `with paper_style(): figure = ...`. All figures here are made inside it."""
    return matplotlib.rc_context(STYLE)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write `path`.pdf and `path`.png (no dates inside), each whole or not at all; returns the two paths.

    The PDF holds images in their own resolution, for the viewer to enlarge. Both have 32 levels a channel.
    """
    drawn = {}
    images = figure.findobj(AxesImage)
    before = [image.get_interpolation() for image in images]
    with paper_style():
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            page = io.BytesIO()
            figure.savefig(page, format=kind, dpi=DPI, metadata=metadata)
            drawn[kind] = page.getvalue()
            for image in images:
                image.set_interpolation("none")
    for image, interpolation in zip(images, before, strict=True):
        image.set_interpolation(interpolation)
    drawn["png"] = smaller_png(drawn["png"])
    targets = [(Path(f"{path}.{kind}"), drawn[kind]) for kind in ("pdf", "png")]
    return [write_whole(target, partial(Path.write_bytes, data=data)) for target, data in targets]


def page(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure whose coordinates are inches, from the upper left corner, x to the right and y down."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.autoscale(False)
    return figure, axes


def text_width(text: str) -> float:
    """Inches that the longest line of `text` takes in the shared style."""
    font = FontProperties(family=STYLE["font.family"], size=STYLE["font.size"])
    return max(TextPath((0, 0), line or " ", prop=font).get_extents().width for line in text.split("\n")) / 72


def contact_sheet(
    images: Float[Tensor, "rows columns 3 h w"],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    *,
    cell: float | None = None,
    framed: Sequence[int] = (),
) -> Figure:
    """Rows and columns of equally large images in [0, 1], with a label left of each row and above each column.

    An image of NaN leaves its place empty. cell: inches an image is wide; by default the sheet is as wide as the text,
    and no image wider than an inch. framed: columns whose images get a thick frame. Labels may have several lines.
    Raises ValueError where the labels do not match the images.
    """
    rows, columns, _, height, width = _checked(images, "rows columns 3 h w", "contact_sheet")
    for labels, count, name in ((row_labels, rows, "row"), (column_labels, columns, "column")):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} {name} labels for {count} {name}s of images")
    lines = max((label.count("\n") + 1 for label in column_labels or ()), default=0)
    left = MARGIN + (0.11 + max(text_width(label) for label in row_labels) if row_labels else 0.0)
    top = MARGIN + TITLE * bool(title) + (0.05 + LINE * lines if lines else 0.0)
    cell = cell or min(1.0, (TEXT_WIDTH - left - MARGIN) / (columns + GAP * (columns - 1)))
    across, down = cell * (1 + GAP), cell * (height / width + GAP)
    pixels = _array(images.clamp(0, 1)).transpose(0, 1, 3, 4, 2)
    empty = np.isnan(pixels).all(axis=(2, 3, 4))
    tallest = max((label.count("\n") + 1 for label in row_labels or ()), default=1) * LINE
    with paper_style():
        figure, axes = page(left + columns * across - GAP * cell + MARGIN, top + rows * down - GAP * cell + MARGIN)
        size = matplotlib.rcParams["font.size"] * min(1.0, down / tallest)  # no label reaches into the next row
        for row in range(rows):
            for column in np.flatnonzero(~empty[row]):
                _picture(axes, pixels[row, column], left + column * across, top + row * down, cell, column in framed)
            if row_labels:
                middle = top + row * down + cell * height / width / 2
                axes.text(left - 0.07, middle, row_labels[row], ha="right", va="center", fontsize=size)
        for column, label in enumerate(column_labels or ()):
            axes.text(left + column * across + cell / 2, top - 0.05, label, ha="center", va="bottom")
        _title(axes, title)
    return figure


def film_strips(videos: Float[Tensor, "videos frames 3 h w"], labels: Sequence[str] | None = None) -> Figure:
    """Orbits as film strips, a row each: up to 8 uniform frames, with how far round each should be, in degrees.

    The first frame, which a video model is given, has a thick frame. A video of NaN leaves its row empty.
    """
    count = _checked(videos, "videos frames 3 h w", "film_strips")[1]
    chosen = uniform_frames(count, min(COLUMNS, count))
    degrees = [f"{360 * frame / count:.0f}°" for frame in chosen]
    return contact_sheet(videos[:, chosen], labels, degrees, framed=(0,))


def film_strip(
    frames: Float[Tensor, "frames 3 h w"],
    labels: Sequence[str] | None = None,
    title: str | None = None,
    *,
    columns: int = COLUMNS,
) -> Figure:
    """Frames of one video or one turn around an object, in reading order, numbered from 1 unless they have labels.

    A label may have several lines.
    """
    count, _, height, width = _checked(frames, "frames 3 h w", "film_strip")
    labels = [str(number + 1) for number in range(count)] if labels is None else labels
    if len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} frames")
    columns = min(columns, count)
    cell = min(1.0, (TEXT_WIDTH - 2 * MARGIN) / (columns + GAP * (columns - 1)))
    top, across, tall = MARGIN + TITLE * bool(title), cell * (1 + GAP), cell * height / width
    breaks = max(label.count("\n") for label in labels)
    labels = [label + "\n" * (breaks - label.count("\n")) for label in labels]  # equally tall, so equally high
    down = tall + 0.18 + LINE * breaks
    pixels = _array(frames.clamp(0, 1)).transpose(0, 2, 3, 1)
    with paper_style():
        figure, axes = page(columns * across - GAP * cell + 2 * MARGIN, top + math.ceil(count / columns) * down)
        for number, label in enumerate(labels):
            x, y = MARGIN + number % columns * across, top + number // columns * down
            _picture(axes, pixels[number], x, y, cell)
            axes.text(x + cell / 2, y + tall + 0.015, label, ha="center", va="top", fontsize=8, color="0.3")
        _title(axes, title)
    return figure


def curve(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    xlabel: str = "training step",
    smoothing: float = 0.97,
    log: bool = False,
    title: str | None = None,
) -> Figure:
    """Training curves by name, each (steps, values): the raw values pale, their exponential mean on top.

    smoothing: the weight of the past in the mean, 0 for none (see `smooth`). log: a logarithmic y axis.
    """
    many = len(curves) > 4  # too many names to find room between the curves
    with paper_style():
        figure = Figure(figsize=(TEXT_WIDTH * (0.9 if many else 0.62), 2.3), layout="constrained")
        axes = figure.add_subplot()
        for name, (steps, values) in curves.items():
            line = axes.plot(steps, smooth(values, smoothing), label=name, zorder=3)[0]
            if smoothing:
                axes.plot(steps, values, color=line.get_color(), ls="-", lw=0.5, alpha=0.25, zorder=2)
        _trim(axes, [values for _, values in curves.values()])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
        axes.margins(x=0.01)
        if many:
            figure.legend(loc="outside right center")
        elif len(curves) > 1:
            axes.legend()
    return figure


def smooth(values: Sequence[float], smoothing: float) -> np.ndarray:
    """Exponential mean of `values` with the start's bias removed: a constant stays the constant it is."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing has to be in [0, 1), it is {smoothing}")
    return pd.Series(values, dtype=float).ewm(alpha=1 - smoothing, ignore_na=True).mean().to_numpy()


def schedule(
    steps: Sequence[int], resolution: Sequence[int], learning_rate: Sequence[float], title: str | None = None
) -> Figure:
    """Rendering resolution and learning rate over the steps, with the stages shaded (the recipe of section 3.3)."""
    steps, resolution, learning_rate = np.asarray(steps), np.asarray(resolution), np.asarray(learning_rate)
    if not len(steps) == len(resolution) == len(learning_rate) > 0:
        raise ValueError(f"{len(steps)} steps, {len(resolution)} resolutions and {len(learning_rate)} learning rates")
    starts = [0, *(np.flatnonzero(np.diff(resolution)) + 1)]
    ends = [*starts[1:], len(steps) - 1]
    with paper_style():
        figure = Figure(figsize=(TEXT_WIDTH * 0.8, 2.7), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1]})
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            for axes in (above, below):
                if number % 2:
                    axes.axvspan(steps[start], steps[end], color="0.955", lw=0)
            middle = (steps[start] + steps[end]) / 2
            above.text(middle, resolution[start] + 0.04 * resolution.max(), str(resolution[start]), ha="center")
        above.plot(steps, resolution, drawstyle="steps-post", color=BLUE)
        above.set(ylabel="rendering\nresolution (px)", ylim=(0, 1.25 * resolution.max()), title=title)
        below.plot(steps, learning_rate, color=BLUE)
        below.set(ylabel="learning rate", xlabel="training step", ylim=(0, 1.1 * learning_rate.max()))
        below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        below.set_xlim(steps[0], steps[-1])
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (above, below):
            axes.grid(axis="x", visible=False)
        figure.align_ylabels()
    return figure


def plot_cameras(
    cam2world: Float[Tensor, "views 3 4"], highlight: Sequence[int] = (), title: str | None = None
) -> Figure:
    """Cameras around the object in 3D: a small pyramid each, opened towards what it sees; the ball is the object's.

    highlight: indices of the cameras drawn in colour and numbered, such as the input view. Axes in world units.
    """
    _checked(cam2world, "views 3 4", "plot_cameras")
    cameras = _array(cam2world)
    half, depth = 0.5 / INTRINSICS[0], 0.22
    corners = np.array([[-half, -half, -1], [half, -half, -1], [half, half, -1], [-half, half, -1]]) * depth
    with paper_style():
        figure = Figure(figsize=(3.4, 2.5))
        axes = figure.add_axes((-0.1, -0.005, 1.17, 1.15), projection="3d", computed_zorder=False)
        around, along = np.mgrid[0 : 2 * math.pi : 19j, 0 : math.pi : 11j]
        ball = 0.75 * np.stack([np.cos(around) * np.sin(along), np.sin(around) * np.sin(along), np.cos(along)])
        axes.plot_wireframe(*ball, color="0.75", linewidth=0.3)
        for number, camera in enumerate(cameras):
            position, image = camera[:, 3], corners @ camera[:, :3].T + camera[:, 3]
            chosen = number in highlight
            look = {"color": ORANGE if chosen else BLUE, "lw": 1.3 if chosen else 0.6, "ls": "-", "zorder": 3}
            for corner in image:
                axes.plot(*np.stack([position, corner], axis=1), **look)
            axes.plot(*np.concatenate([image, image[:1]]).T, **look)
            if chosen:
                name = axes.text(*(position + np.array([0, 0, 0.32])), str(number), ha="center", va="center", zorder=5)
                name.set(color=ORANGE, weight="bold", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        reach = np.abs(cameras[..., 3]).max() * 1.05
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach * 0.55, reach * 0.95))
        axes.set_box_aspect((1, 1, 0.75))
        axes.set(xlabel="x", ylabel="y", zlabel="z", xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[0, 1])
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.pane.set_visible(False)
            axis.labelpad = -8
        axes.tick_params(pad=-3)
        axes.view_init(elev=26, azim=-52)
        if title:
            figure.text(0.5, 0.98, title, ha="center", va="top", fontsize=9.5)
    return figure


def _picture(axes: Axes, pixels: np.ndarray, x: float, y: float, width: float, thick: bool = False) -> None:
    """One image (H, W, 3) in [0, 1] on a page, its upper left corner at (x, y) inches, in a thin or a thick frame."""
    pixels = fewer_levels(np.uint8(np.round(255 * pixels)))
    height = width * pixels.shape[0] / pixels.shape[1]
    enlarged = width * DPI > pixels.shape[1]
    extent = (x, x + width, y + height, y)
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="bicubic" if enlarged else "antialiased")
    line = {"edgecolor": ORANGE, "lw": 1.6, "zorder": 3} if thick else {"edgecolor": "0.8", "lw": 0.5}
    axes.add_patch(Rectangle((x, y), width, height, fill=False, clip_on=False, **line))


def _title(axes: Axes, title: str | None) -> None:
    if title:
        axes.text(axes.get_xlim()[1] / 2, 0.02, title, ha="center", va="top", fontsize=10)


def _trim(axes: Axes, series: list[Sequence[float]]) -> None:
    """Keep a few wild values of the first steps from flattening a loss curve."""
    values = np.concatenate([np.asarray(values, dtype=float) for values in series])
    values = values[np.isfinite(values)]
    if len(values) > 50:
        low, high = np.quantile(values, [0.001, 0.995])
        if values.max() > low + 2 * (high - low):
            axes.set_ylim(top=high + 0.05 * (high - low))


def _checked(tensor: Tensor, wanted: str, name: str) -> tuple[int, ...]:
    """The shape, if it has the axes of `wanted` ("frames 3 h w": numbers are sizes) and none is empty."""
    axes, shape = wanted.split(), tuple(tensor.shape)
    fits = len(axes) == len(shape) and all(not a.isdigit() or int(a) == n for a, n in zip(axes, shape, strict=True))
    if not fits or 0 in shape:
        raise ValueError(f"{name} needs a tensor ({', '.join(axes)}), the shape is {shape}")
    return shape


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
