"""Category-free objects: 1 to 5 random primitives in a touching cluster, randomly coloured (the idea of LRM-Zero).

The bundled base model learns from these only, so they teach what surfaces, parts, colours and symmetry look like and
nothing of the categories in `vfusion3d.world.objects`. Most of the world stands upright and is symmetric, so most of
these are stacked, mirrored about a vertical plane or repeated around z; the others lie at any angle.
"""

import colorsys

import numpy as np
import trimesh

from vfusion3d.world.patterns import PATTERNS, Paint, PaintedSurface, assemble, paint
from vfusion3d.world.shapes import (
    RADIUS,
    Shape,
    arch,
    ball,
    box,
    capsule,
    circle,
    cylinder,
    dome,
    join,
    lathe,
    pipe,
    prism,
    ring,
    rounded_box,
    tube,
)

MOST_FACES = 5000  # of one painted primitive; where a pattern makes more, it is left plain


def _star(rng: np.random.Generator) -> Shape:
    points = int(rng.integers(4, 8))
    outline = circle(1.0, 2 * points)
    outline[1::2] *= rng.uniform(0.4, 0.75)
    return prism(outline * 0.6, rng.uniform(0.15, 0.8), rng.uniform(0.5, 1.0))


def _vase(rng: np.random.Generator) -> Shape:
    heights = np.linspace(0, 1, 17)
    wave = 0.35 + 0.2 * np.sin(heights * rng.uniform(2, 8) + rng.uniform(0, 2 * np.pi))
    return lathe(np.stack([wave * rng.uniform(0.7, 1.2), heights * rng.uniform(0.8, 1.4)], -1))


def _handle(rng: np.random.Generator) -> Shape:
    angle = np.linspace(0, rng.uniform(np.pi, 1.7 * np.pi), 15)
    path = np.stack([np.cos(angle), np.zeros(15), rng.uniform(0.6, 1.2) * np.sin(angle)], -1) * 0.5
    return tube(path, rng.uniform(0.06, 0.16))


def _primitive(rng: np.random.Generator) -> Shape:
    """One primitive of about unit size, centred on the origin, upright, with its proportions drawn."""
    kinds = (
        lambda: box(1, 1, 1),
        lambda: box(*rng.uniform(0.3, 1.2, 3), top_scale=rng.uniform(0.0, 0.9)),
        lambda: rounded_box(1, 1, 1, rng.uniform(0.1, 0.4)),
        lambda: ball(0.55),
        lambda: dome(0.6, rng.uniform(0.3, 0.9)),
        lambda: cylinder(0.5, 1),
        lambda: cylinder(0.55, 1.1, rng.choice([0.0, 0.25, 0.4])),
        lambda: ring(0.5, rng.uniform(0.1, 0.25)),
        lambda: capsule(rng.uniform(0.15, 0.4), 1.2),
        lambda: cylinder(0.55, rng.uniform(0.3, 1.2), segments=int(rng.integers(3, 9))),
        lambda: pipe(0.5, rng.uniform(0.25, 0.46), rng.uniform(0.2, 1.1)),
        lambda: lathe([(0, 0), (0.5, 0), (0.5, 1), (0.43, 1), (0.43, 0.1), (0, 0.1)]),  # a cup
        lambda: arch(0.5, rng.uniform(0.12, 0.3), rng.uniform(0.2, 0.7), rng.uniform(0, 0.6)),
        lambda: box(1.3, rng.uniform(0.5, 1.3), rng.uniform(0.06, 0.15)),  # a slab
        lambda: cylinder(rng.uniform(0.4, 0.8), rng.uniform(0.05, 0.15)),  # a disc
        lambda: cylinder(rng.uniform(0.05, 0.1), 1.5),  # a rod
        lambda: _star(rng),
        lambda: _vase(rng),
        lambda: _handle(rng),
    )
    shape = kinds[rng.integers(len(kinds))]()
    if rng.random() < 0.5:
        shape = shape.sized(*np.exp(rng.uniform(-0.6, 0.6, 3)))
    return _centred(shape)


def _centred(shape: Shape) -> Shape:
    return shape.at(*-(shape.vertices.min(0) + shape.vertices.max(0)) / 2)


def _posed(shape: Shape, rng: np.random.Generator) -> Shape:
    """Upright, on its side, or at any angle."""
    kind = rng.random()
    if kind < 0.25:
        shape = shape.turned(*[("x", np.pi / 2), ("y", np.pi / 2)][rng.integers(2)])
    elif kind < 0.5:
        for axis in "xyz":
            shape = shape.turned(axis, rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.5:
        shape = shape.turned("z", rng.choice([np.pi / 4, np.pi / 2, rng.uniform(0, 2 * np.pi)]))
    return _centred(shape)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour, a third of them near grey; seldom so bright that it vanishes on the white background."""
    saturation = rng.uniform(0.0, 0.15) if rng.random() < 0.3 else rng.uniform(0.45, 1.0)
    value = rng.uniform(0.05, 0.9) if saturation < 0.15 else rng.uniform(0.3, 1.0)
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), saturation, value))


def _painted(shape: Shape, rng: np.random.Generator) -> PaintedSurface:
    pattern = PATTERNS[rng.choice(len(PATTERNS), p=(0.6, 0.12, 0.08, 0.08, 0.12))]
    if pattern == "dotted" and len(shape.faces) > 300:  # dots on many small faces would make very many more
        pattern = "striped"
    how = Paint((_colour(rng), _colour(rng)), pattern, ("", "x", "y", "z", "around")[rng.integers(5)])
    surface = paint(shape, how, rng)
    return surface if len(surface.soup) < MOST_FACES else paint(shape, Paint(how.colours), rng)


def _stack(shape: Shape, below: Shape, rng: np.random.Generator) -> Shape:
    """The shape set down on top of `below`, biting into it a little, mostly in its middle."""
    low, high = below.vertices.min(0), below.vertices.max(0)
    x, y = (low + high)[:2] / 2 + (rng.uniform(-0.3, 0.3, 2) * (high - low)[:2] if rng.random() < 0.2 else 0)
    bite = rng.uniform(0.02, 0.3) * min(np.ptp(shape.vertices[:, 2]), high[2] - low[2])
    return shape.at(x, y, high[2] - bite - shape.vertices[:, 2].min())


def _attach(shape: Shape, other: Shape, rng: np.random.Generator) -> Shape:
    """The shape moved so that its foremost point against a random face of `other` sinks a little into that face."""
    corners = other.vertices[other.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(areas), p=areas / areas.sum())
    normal, point = normals[face] / areas[face], rng.dirichlet((2, 2, 2)) @ corners[face]
    heights = shape.vertices @ normal
    bite = rng.uniform(0.05, 0.35) * np.ptp(heights)
    return shape.at(*(point - normal * bite - shape.vertices[heights.argmin()]))


def _repeated(shape: Shape, rng: np.random.Generator) -> Shape:
    """Once, mirrored about a vertical plane (a pair of ears, of wheels), or repeated about z (legs, fins, petals)."""
    kind = rng.random()
    if kind < 0.25:
        return join(shape, shape.sized(1, -1, 1) if rng.random() < 0.5 else shape.sized(-1, 1, 1))
    if kind < 0.4:
        times = int(rng.integers(2, 6))
        return join(*(shape.turned("z", 2 * np.pi * i / times) for i in range(times)))
    return shape


def random_primitives(rng: np.random.Generator) -> trimesh.Trimesh:
    """A random object of 1 to 5 primitives: vertex colours, hard edges, centred, filling the ball of radius 0.75.

    Two calls with generators in the same state give the same mesh.
    """
    count = int(rng.choice(5, p=(0.15, 0.25, 0.25, 0.2, 0.15))) + 1
    stacked, free = rng.random() < 0.45, rng.random() < 0.25
    shapes: list[Shape] = []
    for number in range(count):
        shape = _primitive(rng).sized(np.exp(rng.uniform(-0.7, 0.2)) if number else 1.0)
        if not (stacked and rng.random() < 0.7):
            shape = _posed(shape, rng)
        if number:
            other = shapes[-1] if stacked else shapes[rng.integers(number)]
            shape = (_stack if stacked and rng.random() < 0.75 else _attach)(shape, other, rng)
            x, y, _ = (other.vertices.min(0) + other.vertices.max(0)) / 2
            shape = _repeated(shape.at(-x, -y), rng).at(x, y)
        shapes.append(shape)

    if free:
        angles = rng.uniform(0, 2 * np.pi, 3)
        shapes = [shape.turned("x", angles[0]).turned("y", angles[1]).turned("z", angles[2]) for shape in shapes]
    points = np.concatenate([shape.vertices for shape in shapes])
    centre = (points.min(0) + points.max(0)) / 2
    scale = RADIUS / np.linalg.norm(points - centre, axis=1).max()
    placed = [shape.at(*-centre).sized(scale) for shape in shapes]
    if rng.random() < 0.15:  # one paint over all
        placed = [join(*placed)]
    return assemble([_painted(shape, rng) for shape in placed])
