"""Procedural, promptable objects: the miniature world's stand-in for Objaverse and for what web video shows.

    spec = sample_object(rng)            # or make_object("a tall striped red and white mug", seed=0)
    describe(spec)                       # "a tall striped red and white mug"
    mesh = build_mesh(spec)              # trimesh, vertex colours, in the ball of radius 0.75, z up, front to +x

The same spec always gives the same mesh. The list of categories is in `vfusion3d.world.catalogue`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh

from vfusion3d.world.captions import contrasting, describe, make_object
from vfusion3d.world.catalogue import COLOURS, COMMON, DRAWN, PROPORTIONS, ObjectSpec, category
from vfusion3d.world.parts import MATERIALS, Proportions
from vfusion3d.world.patterns import PATTERNS, Paint, PaintedSurface, assemble, paint
from vfusion3d.world.shapes import RADIUS, Shape, join

__all__ = ["COMMON", "build_mesh", "build_parts", "describe", "make_object", "sample_object"]


def sample_object(rng: np.random.Generator, categories: Sequence[str] | None = None) -> ObjectSpec:
    """A random object of one of `categories` (names; those of `DRAWN` by default), each as likely.

    Added categories, which are not in `DRAWN`, take their numbers from a child of the generator. So where one is among
    the names, every object is what it would be without it, or is of the new category. ValueError: unknown name.
    """
    names = DRAWN if categories is None else tuple(categories)
    if not names:
        raise ValueError("no categories to sample from: pass names, or None for the usual ones")
    usual = [name for name in names if name in DRAWN]
    added = [name for name in names if name not in DRAWN]
    spec = _random_spec(rng, usual) if usual else None
    if added:
        child = rng.spawn(1)[0]
        if spec is None or child.random() < len(added) / len(names):
            return _random_spec(child, added)
    return spec


def _random_spec(rng: np.random.Generator, names: Sequence[str]) -> ObjectSpec:
    kind = category(names[rng.integers(len(names))])
    pattern = PATTERNS[rng.choice(len(PATTERNS), p=(0.32, 0.2, 0.16, 0.16, 0.16))]
    colours = [list(COLOURS)[rng.integers(len(COLOURS))]]
    if pattern != "plain":
        others = contrasting(colours[0])
        colours.append(others[rng.integers(len(others))])
    proportion = ("", *kind.proportions)[rng.choice(3, p=(0.5, 0.25, 0.25))]
    return ObjectSpec(kind.name, tuple(colours), pattern, proportion, int(rng.integers(2**31)))


@dataclass(frozen=True)
class PaintedPart:
    """A painted surface of an object. role: "main" (what the caption's colours are on), "accent" or a material."""

    surface: PaintedSurface
    role: str


def build_parts(spec: ObjectSpec) -> list[PaintedPart]:
    """The object's painted surfaces in their final place and size; "main" is what the caption's colours are on."""
    rng = np.random.default_rng(spec.seed)
    usual = PROPORTIONS[spec.proportion]
    height, width, length = rng.uniform(0.93, 1.07, 3)
    own = Proportions(usual.height * height, usual.width * width, usual.length * length)
    parts = category(spec.category).build(own, rng)
    points = np.concatenate([part.shape.vertices for part in parts])
    centre = (points.min(0) + points.max(0)) / 2
    scale = RADIUS / np.linalg.norm(points - centre, axis=1).max()

    # the seed alone picks the order, so that two objects that differ in colour keep their other colours where they can
    order = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    accent = next(name for name in order if name not in spec.colours and name in contrasting(spec.colours[0]))
    groups: dict[tuple[str, str], list[Shape]] = {}
    for part in parts:
        groups.setdefault((part.paint, part.along), []).append(part.shape.at(*-centre).sized(scale))
    painted = []
    for (role, along), shapes in groups.items():
        if role == "main":
            how = Paint(tuple(COLOURS[name] for name in spec.colours), spec.pattern, along)
        else:
            how = Paint((COLOURS[accent] if role == "accent" else MATERIALS[role],))
        painted.append(PaintedPart(paint(join(*shapes), how, rng), role))
    return painted


def build_mesh(spec: ObjectSpec) -> trimesh.Trimesh:
    """The object as a mesh with vertex colours and normals, filling the ball of radius 0.75; z up, front to +x."""
    return assemble([part.surface for part in build_parts(spec)])
