"""Draws elevation.png: what `reconstruct --elevation` means. `python docs/elevation.py`"""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Arc, FancyArrowPatch, Polygon, Rectangle

from vfusion3d.cameras import default_intrinsics, look_at_origin, sphere_position
from vfusion3d.data.images import on_white
from vfusion3d.data.render import render_views
from vfusion3d.evaluation.figures import GREY, ORANGE, TEXT_WIDTH, paper_style
from vfusion3d.world.objects import build_mesh, make_object

DEGREES = (0, 20, 40, 70)
DISTANCE = 1.3  # of the camera, in the drawing


def camera(axes, elevation: float) -> None:
    """From the side: the ground, the object's ball, and the camera that looks at its centre from above the horizon."""
    towards = np.array([-math.cos(elevation), math.sin(elevation)])
    across = np.array([towards[1], -towards[0]])
    place = DISTANCE * towards
    axes.plot([-DISTANCE - 0.2, 0.5], [0, 0], color=GREY, lw=0.8, ls="--")
    axes.add_patch(Rectangle((-0.2, -0.16), 0.4, 0.32, facecolor=ORANGE, edgecolor="none"))
    axes.add_patch(FancyArrowPatch(place - 0.16 * towards, 0.3 * towards, arrowstyle="->", mutation_scale=8, lw=0.8))
    lens = [place - 0.14 * towards + side * 0.1 * across for side in (-1, 1)]
    axes.add_patch(Polygon([place + 0.1 * towards, *lens], closed=True, facecolor="0.2", edgecolor="none"))
    if elevation:
        axes.add_patch(Arc((0, 0), 1.2, 1.2, theta1=180 - math.degrees(elevation), theta2=180, lw=0.8))
    middle = elevation / 2
    label = (-0.78 * math.cos(middle), 0.78 * math.sin(middle)) if elevation else (-0.62, 0.17)
    axes.text(*label, f"{math.degrees(elevation):.0f}°", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-1.6, 0.6), ylim=(-0.35, 1.5), aspect="equal")
    axes.axis("off")


def main() -> None:
    mesh = build_mesh(make_object("a white and red mug", seed=3))
    elevations = torch.tensor([math.radians(degrees) for degrees in DEGREES])
    cameras = look_at_origin(sphere_position(torch.full_like(elevations, 0.5), elevations))
    seen = on_white(
        torch.from_numpy(render_views(mesh, cameras, default_intrinsics(len(DEGREES)), 192).rgba).movedim(-1, 1)
    )
    with paper_style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.6), layout="constrained")
        rows = figure.subplots(2, len(DEGREES))
        for above, below, elevation, picture in zip(*rows, elevations.tolist(), seen, strict=True):
            camera(above, elevation)
            below.imshow(picture.movedim(0, -1).numpy())
            below.set_xlabel(f"--elevation {math.degrees(elevation):.0f}")
            below.set(xticks=[], yticks=[], frame_on=False)
        figure.savefig(Path(__file__).with_suffix(".png"), dpi=160)


if __name__ == "__main__":
    main()
