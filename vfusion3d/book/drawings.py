"""A drawing for each step of the pipeline, in one style: grey stays as it is or is given, blue learns or is chosen,
orange is what comes in. What is told by colour is told by a word or a line as well, so they can be read in grey.

    book.drawings.orbit()
"""

import math
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from vfusion3d.cameras import HIGHEST_ELEVATION, RENDER_OFFSET
from vfusion3d.evaluation.figures import BLUE, ORANGE, page, paper_style
from vfusion3d.runs.profiles import load_profile

LINE = "0.35"
FROZEN = "0.92"
PIPELINE = {  # the stages of Figure 2, and the notebooks about each
    "3D data": ["01_render_3d_data"],
    "video model": ["03_finetune_video_model", "11_ablation_video_data"],
    "synthetic data": ["02_prompts", "04_generate_synthetic_data"],
    "filter & label": ["05_filter_and_label"],
    "VFusion3D": [
        *("05b_inside_the_model", "06_train_vfusion3d", "07_finetune_on_3d_data", "12_ablation_training_strategies"),
        *("13_ablation_3d_finetuning", "14_3d_vs_synthetic_data", "15_scaling_trends"),
    ],
    "3D asset": ["00_quickstart", "08_image_to_3d", "09_text_to_3d", "10_user_study"],
    "appendix": ["A1_miniature_foundations", "A2_what_makes_it_sharp"],
}


def pipeline_map(current: str, notebook: str = "") -> str:
    """The pipeline as a line of HTML: its stages with links to their notebooks; `current` stands out, `notebook` is
    no link. The links work between notebooks of one folder. Raises ValueError for a stage that there is not."""
    if current not in PIPELINE:
        raise ValueError(f"the pipeline has no stage {current!r}: choose one of {', '.join(PIPELINE)}")
    boxes = []
    for stage, names in PIPELINE.items():
        numbers = [
            f"<b>{number}</b>" if name == notebook else f'<a href="{name}.ipynb" title="{name}">{number}</a>'
            for name in names
            for number in [name.split("_")[0]]
        ]
        here = f"border:2px solid {BLUE};font-weight:bold" if stage == current else "border:1px solid gray"
        look = f"{here};border-radius:6px;padding:1px 7px;text-align:center"
        boxes.append(f'<div style="{look}">{escape(stage)}<br><small>{" ".join(numbers)}</small></div>')
    line = '<div style="align-self:center">→</div>'.join(boxes[:-1]) + boxes[-1]
    return f'<div style="display:flex;flex-wrap:wrap;gap:4px;font-size:90%">{line}</div>'


def orbit() -> Figure:
    """The cameras of an orbit from above and from the side (section 3.2)."""
    with paper_style():
        figure, axes = page(5.2, 2.45)
        x, y, radius, views = 1.25, 1.2, 0.85, load_profile("paper").video.frames
        axes.add_patch(Circle((x, y), radius, fill=False, ec="0.7", lw=0.7, ls=(0, (3, 2))))
        axes.add_patch(Circle((x, y), 0.3, color=FROZEN))
        axes.text(x, y, "object", ha="center", va="center")
        for view in range(views):
            angle = 2 * math.pi * view / views
            _camera(axes, x + radius * math.cos(angle), y - radius * math.sin(angle), math.pi + angle, not view)
        axes.text(x, 0.08, "from above", ha="center", va="center")
        axes.text(x + radius + 0.16, y, "first frame:\nazimuth 0", color=ORANGE, va="center", weight="bold")
        axes.text(x, y + 0.55, f"{views} equal steps", ha="center", va="center", color=LINE, fontsize=8)

        x, y, far = 3.4, 1.75, 1.3
        tilt = math.pi / 8
        axes.plot([x - 0.35, x + 1.5], [y, y], color="0.7", lw=0.7, ls="-")
        axes.add_patch(Circle((x, y), 0.25, color=FROZEN))
        for angle, dash in ((HIGHEST_ELEVATION, (0, (2, 2))), (tilt, "-")):
            axes.plot([x, x + far * math.cos(angle)], [y, y - far * math.sin(angle)], color="0.55", lw=0.7, ls=dash)
        _camera(axes, x + far * math.cos(tilt), y - far * math.sin(tilt), math.pi + tilt, False)
        axes.add_patch(Arc((x, y), 1.5, 1.5, theta1=-math.degrees(tilt), theta2=0, color=LINE, lw=0.8))
        axes.text(x + 0.82, y - 0.15, "elevation", va="center", fontsize=8, color=LINE)
        axes.text(x + far * 0.74, y - far * 0.78, "highest: 45°", va="center", fontsize=8, color=LINE)
        axes.text(x + 0.6, 0.08, "from the side", ha="center", va="center")
        notes = f"one elevation an orbit, drawn anew for each;\ncameras are shifted by up to {RENDER_OFFSET}"
        axes.text(x + 0.55, 2.24, notes, ha="center", va="center", fontsize=8, color=LINE)
    return figure


def learning_layers() -> Figure:
    """Which layers of the video model learn (section 3.2)."""
    with paper_style():
        figure, axes = page(5.6, 1.95)
        _box(axes, 0.05, 0.62, 0.85, 0.5, "image\nencoders")
        _box(axes, 4.7, 0.62, 0.85, 0.5, "decoder\nof frames")
        for number in range(5):
            x, tall = 1.2 + 0.66 * number, (1.2, 0.9, 0.6, 0.9, 1.2)[number]
            top = 0.87 - tall / 2
            _box(axes, x, top, 0.24, tall, "spatial", rotation=90, fontsize=7)
            _box(axes, x + 0.28, top, 0.24, tall, "temporal", learns=True, rotation=90, fontsize=7)
            _arrow(axes, x - 0.13 if number else 0.92, 0.87, x - 0.01, 0.87)
        _arrow(axes, 4.38, 0.87, 4.68, 0.87)
        axes.text(2.8, 0.1, "UNet: all frames at once", ha="center", va="center")
        _key(axes, 0.75, 1.72, "frozen: looks at each frame alone", "learns: connects the frames")
    return figure


def quality_filter() -> Figure:
    """The quality filter: frames, features, their mean, a support vector machine (section 3.2)."""
    from vfusion3d.curation.curate import QUALITY_FRAMES  # takes seconds

    return _averaged(
        QUALITY_FRAMES,
        "SVM",
        "a video\nof the set",
        "score",
        "0 or more: kept\nbelow 0: left out",
        "good or bad, by people",
    )


def elevation() -> Figure:
    """The elevation estimator: views, features, their mean, a small network (section 3.2)."""
    from vfusion3d.curation.curate import ELEVATION_VIEWS  # takes seconds

    return _averaged(
        ELEVATION_VIEWS,
        "2-layer\nMLP",
        "a video\nor orbit",
        "angle",
        "elevation,\n0° to 45°",
        "true elevations of 3D data",
    )


def patches() -> Figure:
    """Stages of training: larger renders, patches of one size (section 3.3)."""
    recipe = load_profile("paper").training
    resolutions = [stage.resolution for stage in recipe.stages]
    with paper_style():
        figure, axes = page(5.8, 2.05)
        scale, bottom, x = 1.35 / max(resolutions), 1.5, 0.1
        rng = np.random.default_rng(1)
        for number, resolution in enumerate(resolutions):
            side, patch = resolution * scale, recipe.patch_size * scale
            axes.add_patch(Rectangle((x, bottom - side), side, side, fc=FROZEN, ec="0.55", lw=0.7))
            left, top = rng.uniform(0.15, 0.85, 2) * (side - patch)
            axes.add_patch(Rectangle((x + left, bottom - side + top), patch, patch, fc="white", ec=BLUE, lw=1.4))
            axes.text(x + side / 2, bottom + 0.12, f"{resolution} px", ha="center", va="center")
            if number + 1 == recipe.restart_after_stage:
                axes.plot([x + side + 0.1] * 2, [0.1, bottom + 0.2], color=ORANGE, ls=(0, (3, 2)), lw=1)
                axes.text(
                    x + side + 0.05, 0.1, "learning rate\nstarts anew", ha="right", va="top", fontsize=8, color=ORANGE
                )
            x += side + 0.2
        text = f"grey: the view at the stage's resolution; framed: the {recipe.patch_size} px that are compared"
        axes.text(2.9, 1.92, text, ha="center", va="center", fontsize=8, color=LINE)
    return figure


def halves() -> Figure:
    """What each row of Table 6 learns from, and what all are asked (section 4.4)."""
    with paper_style():
        figure, axes = page(5.4, 1.75)
        for x, name in ((1.5, "common categories"), (3.35, "uncommon categories")):
            axes.text(x + 0.85, 0.12, name, ha="center", va="center")
        rows = (("3D data", True, False), ("synthetic data", True, True), ("asked: unseen objects", True, True))
        for number, (name, *covers) in enumerate(rows):
            y = 0.3 + 0.46 * number
            axes.text(1.4, y + 0.16, name, ha="right", va="center")
            for x, has in zip((1.5, 3.35), covers):
                text = ("all", "by prompts", "half of them")[number] if has else "none"
                _box(axes, x, y, 1.7, 0.32, text, learns=has and number < 2, dashed=not has)
        note = "the paper's claim: what synthetic data add is larger on the right"
        axes.text(3.3, 1.66, note, ha="center", va="center", fontsize=8, color=LINE)
    return figure


def _averaged(frames: int, head: str, source: str, short: str, result: str, lesson: str) -> Figure:
    with paper_style():
        figure, axes = page(5.6, 1.5)
        axes.text(0.42, 0.48, source, ha="center", va="center")
        for number in range(frames):
            x, y = 0.95 + 0.17 * (number % 4), 0.5 - 0.17 * (frames > 4) + 0.2 * (number // 4) - 0.07
            axes.add_patch(Rectangle((x, y), 0.14, 0.14, fc="white", ec="0.45", lw=0.8))
        axes.text(1.28, 0.88, f"{frames} uniform frames", ha="center", va="center", fontsize=8, color=LINE)
        _arrow(axes, 1.68, 0.48, 1.93, 0.48)
        _box(axes, 1.95, 0.24, 0.65, 0.48, "DINO")
        _arrow(axes, 2.62, 0.48, 2.88, 0.48)
        axes.text(3.13, 0.48, "mean of\nfeatures", ha="center", va="center")
        _arrow(axes, 3.4, 0.48, 3.63, 0.48)
        _box(axes, 3.65, 0.24, 0.65, 0.48, head, learns=True)
        _arrow(axes, 4.32, 0.48, 4.58, 0.48, short)
        axes.text(5.08, 0.48, result, ha="center", va="center")
        _key(axes, 0.75, 1.25, "frozen", f"learns from {lesson}")
    return figure


def _box(
    axes: Axes, x: float, y: float, wide: float, tall: float, text: str, learns=False, dashed=False, **look
) -> None:
    patch = FancyBboxPatch((x, y), wide, tall, boxstyle="round,pad=0,rounding_size=0.04", lw=1.3 if learns else 0.8)
    patch.set(
        fc=BLUE if learns else "white" if dashed else FROZEN, ec=BLUE if learns else "0.55", ls="--" if dashed else "-"
    )
    axes.add_patch(patch)
    font = {"color": "white", "weight": "bold"} if learns else {"color": "0.2"}
    axes.text(x + wide / 2, y + tall / 2, text, ha="center", va="center", **font | look)


def _arrow(axes: Axes, x: float, y: float, to_x: float, to_y: float, text: str = "") -> None:
    arrow = {"arrowstyle": "-|>", "mutation_scale": 7, "color": LINE, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch((x, y), (to_x, to_y), **arrow))
    axes.text((x + to_x) / 2 + 0.04, y - 0.2, text, ha="center", va="center", fontsize=8, color=LINE)


def _camera(axes: Axes, x: float, y: float, looks: float, first: bool) -> None:
    """A small triangle that opens where the camera looks (radians, counter-clockwise from the right)."""
    ends = [(x + 0.13 * math.cos(looks + turn), y - 0.13 * math.sin(looks + turn)) for turn in (-0.45, 0.45)]
    color = ORANGE if first else BLUE
    axes.add_patch(Polygon([(x, y), *ends], fc=color if first else "white", ec=color, lw=1.0, zorder=3))


def _key(axes: Axes, x: float, y: float, *texts: str) -> None:
    for text, learns in zip(texts, (False, True), strict=True):
        _box(axes, x, y - 0.07, 0.14, 0.14, "", learns=learns)
        axes.text(x + 0.2, y, text, va="center", fontsize=8)
        x += 2.2
