"""Building blocks of the procedural world: welded surfaces, made almost only by skinning a stack of rings.

A `Shape` knows positions and connectivity and nothing else. Normals and colours come when it is painted
(`vfusion3d.world.patterns`): an edge is hard where its faces meet at more than 40 degrees. z is up; solids stand on
z = 0, except balls and rings, which are centred on the origin.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Points = Float[np.ndarray, "n 3"]
RADIUS = 0.75  # of the ball that every object fills in the end


@dataclass(frozen=True)
class Shape:
    """Triangles over shared vertices, counter-clockwise seen from outside."""

    vertices: Points
    faces: Int[np.ndarray, "m 3"]

    def at(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Shape":
        """The shape moved by (x, y, z)."""
        return Shape(self.vertices + np.array([x, y, z]), self.faces)

    def on_both_sides(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Shape":
        """Two copies, moved to -y and to y: a pair of eyes."""
        return join(self.at(x, -y, z), self.at(x, y, z))

    def at_corners(self, x: float, y: float, z: float = 0.0) -> "Shape":
        """Four copies, moved to the corners of a rectangle with these half sides: the legs of a table."""
        return join(self.on_both_sides(-x, y, z), self.on_both_sides(x, y, z))

    def sized(self, x: float = 1.0, y: float | None = None, z: float | None = None) -> "Shape":
        """The shape scaled along the axes; one number scales all three. A negative number mirrors."""
        scale = np.array([x, x if y is None else y, x if z is None else z])
        return Shape(self.vertices * scale, self.faces if scale.prod() > 0 else self.faces[:, ::-1])

    def turned(self, axis: str, angle: float) -> "Shape":
        """The shape turned about the axis "x", "y" or "z" through the origin; radians, right-handed."""
        c, s = np.cos(angle), np.sin(angle)
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        vertices = self.vertices.copy()
        vertices[:, i] = c * self.vertices[:, i] - s * self.vertices[:, j]
        vertices[:, j] = s * self.vertices[:, i] + c * self.vertices[:, j]
        return Shape(vertices, self.faces)

    def facing_x(self) -> "Shape":
        """The shape tipped over so that its z becomes x, its x becomes y and its y becomes z (a wall picture)."""
        return Shape(self.vertices[:, [2, 0, 1]], self.faces)

    def sideways(self) -> "Shape":
        """The shape tipped over so that its y becomes z, centred along its old z on y = 0 (a side view, extruded)."""
        turned = self.turned("x", np.pi / 2)
        return turned.at(y=-(turned.vertices[:, 1].min() + turned.vertices[:, 1].max()) / 2)


def join(*shapes: Shape) -> Shape:
    """One shape of several, side by side (not welded to each other)."""
    starts = np.cumsum([0] + [len(shape.vertices) for shape in shapes])
    faces = [shape.faces + start for shape, start in zip(shapes, starts, strict=False)]
    return Shape(np.concatenate([shape.vertices for shape in shapes]), np.concatenate(faces))


def skin(rings: Float[np.ndarray, "k n 3"], caps: bool = True, loop: bool = False) -> Shape:
    """The surface through a stack of rings, each counter-clockwise seen from where the stack goes.

    caps: fans over the first and the last ring, from their mean. loop: join the last ring to the first instead.
    A ring whose points coincide becomes one vertex.
    """
    rings = np.asarray(rings, float)
    k, n, _ = rings.shape
    index = np.arange(k * n).reshape(k, n)
    collapsed = np.ptp(rings, axis=1).max(axis=1) < 1e-9
    index[collapsed] = index[collapsed][:, :1]
    low, high = (index, np.roll(index, -1, axis=0)) if loop else (index[:-1], index[1:])
    low_next, high_next = np.roll(low, -1, axis=1), np.roll(high, -1, axis=1)
    faces = [np.stack(corners, -1).reshape(-1, 3) for corners in ((low, low_next, high_next), (low, high_next, high))]
    vertices = rings.reshape(-1, 3)
    if caps and not loop:
        centres = np.full((n,), k * n)
        faces.append(np.stack([np.roll(index[0], -1), index[0], centres], -1))
        faces.append(np.stack([index[-1], np.roll(index[-1], -1), centres + 1], -1))
        vertices = np.concatenate([vertices, rings[0].mean(0)[None], rings[-1].mean(0)[None]])
    faces = np.concatenate(faces)
    a, b, c = faces.T
    return Shape(vertices, faces[(a != b) & (b != c) & (c != a)])


def circle(radius: float, segments: int = 24) -> Float[np.ndarray, "n 2"]:
    """Points on a circle in the plane, counter-clockwise; few segments make a regular polygon."""
    angle = np.arange(segments) * (2 * np.pi / segments)
    return radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def arc(centre: tuple[float, float], radius: float | tuple[float, float], start: float, end: float, points: int = 9):
    """Points on an arc of a circle or ellipse in the plane, from one angle to another (radians), ends included."""
    angle = np.linspace(start, end, points)
    return np.asarray(centre) + np.stack([np.cos(angle), np.sin(angle)], -1) * radius


def lathe(profile, segments: int = 28, loop: bool = False) -> Shape:
    """A profile of (radius, z) points turned about z. The outside lies to the right of the way the profile goes."""
    profile = np.asarray(profile, float)
    unit = circle(1.0, segments)
    rings = np.empty((len(profile), segments, 3))
    rings[..., :2] = profile[:, None, :1] * unit
    rings[..., 2] = profile[:, 1:]
    return skin(rings, caps=not loop, loop=loop)


def prism(outline, height: float, top_scale: float = 1.0) -> Shape:
    """An outline (counter-clockwise, in x and y, seen whole from its mean) pulled up along z, tapering to top_scale."""
    outline = np.asarray(outline, float)
    centre = outline.mean(0)
    rings = np.zeros((2, len(outline), 3))
    rings[0, :, :2] = outline
    rings[1, :, :2] = centre + (outline - centre) * top_scale
    rings[1, :, 2] = height
    return skin(rings)


def box(x: float, y: float, z: float, top_scale: float = 1.0) -> Shape:
    """A box of these side lengths standing on z = 0; top_scale < 1 makes it taper like a truncated pyramid."""
    return prism(np.array([[-x, -y], [x, -y], [x, y], [-x, y]]) / 2, z, top_scale)


def cylinder(radius: float, height: float, top_radius: float | None = None, segments: int = 24) -> Shape:
    """A cylinder on z = 0; a top radius of its own makes a cone (0) or a frustum; few segments make a prism."""
    return lathe([(radius, 0), (radius if top_radius is None else top_radius, height)], segments)


def ball(x: float, y: float | None = None, z: float | None = None, segments: int = 24) -> Shape:
    """An ellipsoid of these half-axes, centred on the origin; one number makes a sphere."""
    profile = arc((0, 0), 1.0, -np.pi / 2, np.pi / 2, segments // 2 + 1)
    profile[[0, -1], 0] = 0
    return lathe(profile, segments).sized(x, y, z)


def dome(radius: float, height: float, segments: int = 24) -> Shape:
    """Half an ellipsoid standing on z = 0, closed below."""
    profile = arc((0, 0), (radius, height), 0, np.pi / 2, segments // 4 + 1)
    profile[-1, 0] = 0
    return lathe(profile, segments)


def capsule(radius: float, height: float, segments: int = 20) -> Shape:
    """A cylinder with round ends, standing on z = 0; height counts the ends."""
    height = max(height, 2 * radius)
    low = arc((0, radius), radius, -np.pi / 2, 0, segments // 4 + 1)
    high = arc((0, height - radius), radius, 0, np.pi / 2, segments // 4 + 1)
    low[0, 0] = high[-1, 0] = 0
    return lathe(np.concatenate([low, high[int(height == 2 * radius) :]]), segments)


def ring(radius: float, thickness: float, segments: int = 32, height: float | None = None) -> Shape:
    """A torus about z, centred on the origin; thickness (and height) are the half-axes of its section."""
    section = circle(1.0, 12) * (thickness, thickness if height is None else height) + (radius, 0)
    return lathe(section, segments, loop=True)


def pipe(radius: float, inner: float, height: float, segments: int = 28) -> Shape:
    """A hollow tube standing on z = 0, open at both ends."""
    return lathe([(inner, 0), (radius, 0), (radius, height), (inner, height)], segments, loop=True)


def rounded_box(x: float, y: float, z: float, radius: float, segments: int = 16) -> Shape:
    """A box of these side lengths with round edges, standing on z = 0."""
    radius = min(radius, 0.499 * min(x, y, z))
    latitudes = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 2)
    profile = np.stack([np.cos(latitudes), np.sin(latitudes)], -1)
    profile[[0, -1], 0] = 0
    turned = lathe(profile, segments).turned("z", np.pi / segments)
    direction = turned.vertices
    sign = np.where(np.abs(direction) < 1e-6, 0, np.sign(direction))
    return Shape(direction * radius + sign * (np.array([x, y, z]) / 2 - radius) + (0, 0, z / 2), turned.faces)


def tube(path, radius, segments: int = 10) -> Shape:
    """A round bar along a path of 3D points; radius is one number or one a point.

    Sections are carried along the path without twisting (parallel transport).
    """
    path = np.asarray(path, float)
    tangents = np.concatenate([path[1:], path[-1:]]) - np.concatenate([path[:1], path[:-1]])
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    across = np.cross(tangents[0], np.eye(3)[np.abs(tangents[0]).argmin()])
    radii = np.broadcast_to(np.asarray(radius, float), (len(path),))
    section = circle(1.0, segments)
    rings = np.empty((len(path), segments, 3))
    for i, tangent in enumerate(tangents):
        across = across - tangent * (across @ tangent)
        across /= np.linalg.norm(across)
        other = np.cross(tangent, across)
        rings[i] = path[i] + radii[i] * (section[:, :1] * across + section[:, 1:] * other)
    return skin(rings)


def arch(radius: float, thickness: float, depth: float, legs: float = 0.0, points: int = 13) -> Shape:
    """A round arch in the x-z plane standing on z = 0: a bar of rectangular section, on straight legs if legs > 0."""
    centre_line = arc((0, legs), 1.0, 0, np.pi, points) - (0, legs)
    inner, outer = centre_line * (radius - thickness / 2), centre_line * (radius + thickness / 2)
    inner[:, 1] += legs
    outer[:, 1] += legs
    if legs > 0:
        inner = np.concatenate([inner[:1] * (1, 0), inner, inner[-1:] * (1, 0)])
        outer = np.concatenate([outer[:1] * (1, 0), outer, outer[-1:] * (1, 0)])
    corners = ((inner, depth / 2), (inner, -depth / 2), (outer, -depth / 2), (outer, depth / 2))
    rings = np.stack([np.stack([line[:, 0], np.full(len(line), y), line[:, 1]], -1) for line, y in corners], axis=1)
    return skin(rings)
