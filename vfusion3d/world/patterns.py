"""Colour on shapes: plain, striped, checked, dotted and two-tone, cut into the surface rather than put on a texture.

The surface is taken apart into loose triangles, which are cut exactly along the borders of the pattern (where a scalar
changes sign), so that every triangle has one colour and a stripe's edge is as sharp as a model's. Bands are wide and
dots large: a picture of 64x64 pixels from the usual orbit shows 32 pixels per world unit.
"""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8

from vfusion3d.world.shapes import Shape

PATTERNS = ("plain", "striped", "checked", "dotted", "two-tone")
BAND = 0.16  # world units: a stripe's or a check's width
DOT_RADIUS, DOT_SPACING, MOST_DOTS = 0.085, 0.27, 24
CREASE = np.cos(np.radians(40))

Soup = Float[np.ndarray, "m 3 6"]  # loose triangles; a corner is its position and its normal
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Paint:
    """How a shape is coloured: one or two colours, a pattern, and the way the pattern runs.

    along: "x", "y", "z" or "around" (sectors about the vertical through the shape's middle); "" picks the axis along
    which the shape is longest.
    """

    colours: tuple[RGB, ...]
    pattern: str = "plain"
    along: str = ""


@dataclass(frozen=True)
class PaintedSurface:
    """Loose triangles with a normal at every corner and the index of one colour for each."""

    soup: Soup
    index: Int[np.ndarray, " m"]
    colours: tuple[RGB, ...]

    def area_of_colours(self) -> Float[np.ndarray, " colours"]:
        """The area painted in each colour, in square world units."""
        return np.bincount(self.index, triangle_areas(self.soup), minlength=len(self.colours))


def triangle_areas(soup: Soup) -> Float[np.ndarray, " m"]:
    """The area of each loose triangle."""
    a, b, c = soup[:, 0, :3], soup[:, 1, :3], soup[:, 2, :3]
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=-1)


def _centroids(soup: Soup) -> Float[np.ndarray, "m 3"]:
    return (soup[:, 0, :3] + soup[:, 1, :3] + soup[:, 2, :3]) / 3


def loosen(shape: Shape) -> Soup:
    """A shape as loose triangles. A corner's normal is the area-weighted mean over the faces at its vertex that meet
    the corner's own face at less than 40 degrees: smooth on curved surfaces, hard on edges."""
    corners = shape.vertices[shape.faces]
    area_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(area_normal, axis=1)
    keep = length > 1e-12
    corners, area_normal, faces = corners[keep], area_normal[keep], shape.faces[keep]
    unit = area_normal / length[keep, None]

    # all pairs (corner, corner) at the same vertex: a corner at a vertex of valence v has v partners
    vertex = faces.reshape(-1)
    order = np.argsort(vertex, kind="stable")
    valence = np.bincount(vertex, minlength=len(shape.vertices))
    first = np.cumsum(valence) - valence
    partners = valence[vertex]
    corner = np.repeat(np.arange(len(vertex)), partners)
    step = np.arange(len(corner)) - np.repeat(np.cumsum(partners) - partners, partners)
    face, partner_face = corner // 3, order[first[vertex[corner]] + step] // 3
    smooth = np.einsum("ij,ij->i", unit[face], unit[partner_face]) > CREASE
    corner, weight = corner[smooth], area_normal[partner_face[smooth]]
    normals = np.stack([np.bincount(corner, weight[:, i], minlength=len(vertex)) for i in range(3)], -1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.concatenate([corners, normals.reshape(-1, 3, 3)], axis=-1)


def cut(soup: Soup, values: Float[np.ndarray, "m 3"]) -> Soup:
    """The same surface with every triangle cut where `values`, linear on each triangle, changes sign."""
    values = np.where(np.abs(values) < 1e-7, 0.0, values)
    first, second, third = values.T  # columns by hand: numpy is slow along an axis of three
    below = (first < 0) | (second < 0) | (third < 0)
    crosses = below & ((first > 0) | (second > 0) | (third > 0))
    if not crosses.any():
        return soup
    whole, part, values = soup[~crosses], soup[crosses], values[crosses]
    signs = np.sign(values)
    # turn each triangle so that its first corner is the one on zero, or the one alone on its side
    lone = np.where((signs == 0).any(1), (signs == 0).argmax(1), (signs == -np.sign(signs.sum(1))[:, None]).argmax(1))
    turn = (lone[:, None] + np.arange(3)) % 3
    rows = np.arange(len(part))[:, None]
    part, values = part[rows, turn], values[rows, turn]
    a, b, c = part[:, 0], part[:, 1], part[:, 2]
    va, vb, vc = values.T

    def between(p, q, vp, vq):
        return p + (q - p) * (vp / (vp - vq))[:, None]

    zero = va == 0
    middle = between(b[zero], c[zero], vb[zero], vc[zero])
    a, b, c, va, vb, vc = (x[~zero] for x in (a, b, c, va, vb, vc))
    ab, ac = between(a, b, va, vb), between(a, c, va, vc)
    pieces = [
        (part[zero, 0], part[zero, 1], middle),
        (part[zero, 0], middle, part[zero, 2]),
        (a, ab, ac),
        (ab, b, c),
        (ab, c, ac),
    ]
    return np.concatenate([whole, *(np.stack(piece, axis=1) for piece in pieces)])


def refine(soup: Soup, length: float, border) -> Soup:
    """The same surface with the edges longer than `length` halved in triangles that the pattern's border may cross.

    border: a function of points (..., 3) that gives (at most) their distance to the border.
    """
    done = []
    while len(soup):
        edges = soup[:, (1, 2, 0), :3] - soup[..., :3]
        edges = np.sqrt(np.einsum("mcd,mcd->cm", edges, edges))
        longest = edges.max(0)
        split = (longest > length) & (np.abs(border(_centroids(soup))) < 0.67 * longest)
        done.append(soup[~split])
        soup, first = soup[split], edges.argmax(0)[split]
        soup = soup[np.arange(len(soup))[:, None], (first[:, None] + np.arange(3)) % 3]
        a, b, c = soup[:, 0], soup[:, 1], soup[:, 2]
        middle = (a + b) / 2
        soup = np.concatenate([np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)])
    return np.concatenate(done)


def _borders(soup: Soup, axis: int) -> Float[np.ndarray, " borders"]:
    """The borders between an odd number of equal bands, each about `BAND` wide, along an axis."""
    low, high = soup[..., axis].min(), soup[..., axis].max()
    return np.linspace(low, high, max(2, 2 * round(((high - low) / BAND - 1) / 2) + 2))[1:-1]


def _sectors(soup: Soup) -> tuple[Soup, Int[np.ndarray, " m"]]:
    """Cut by planes through the vertical axis into an even number of sectors; the soup and each triangle's sector."""
    points = soup[..., :3].reshape(-1, 3)
    middle = (points.min(0) + points.max(0)) / 2
    radius = np.abs(soup[..., :2] - middle[:2]).max()
    half = int(np.clip(round(np.pi * radius / (1.25 * BAND)), 3, 6))
    for angle in (np.arange(half) + 0.5) * np.pi / half:
        side = (soup[..., 0] - middle[0]) * np.sin(angle) - (soup[..., 1] - middle[1]) * np.cos(angle)
        soup = cut(soup, side)
    centre = _centroids(soup)[:, :2] - middle[:2]
    return soup, np.floor(np.arctan2(centre[:, 1], centre[:, 0]) * half / np.pi - 0.5 + 1e-6).astype(int) % (2 * half)


def _dots(soup: Soup, rng: np.random.Generator) -> tuple[Soup, Int[np.ndarray, " m"]]:
    """Cut out dots spread over the surface; the soup and 1 for the triangles inside of a dot."""
    areas = triangle_areas(soup)
    pick = soup[rng.choice(len(soup), 500, p=areas / areas.sum())][..., :3]
    weights = rng.dirichlet((1, 1, 1), 500)
    samples = np.einsum("nk,nkd->nd", weights, pick)
    distance = np.full(500, np.inf)
    centres = []
    while len(centres) < 3 or (distance.max() > DOT_SPACING and len(centres) < MOST_DOTS):
        centres.append(samples[distance.argmax()])
        distance = np.minimum(distance, np.linalg.norm(samples - centres[-1], axis=1))
    dots = np.array(centres)

    def outside(points):
        flat = points.reshape(-1, 3)
        nearest = ((dots**2).sum(1)[:, None] - 2 * dots @ flat.T).min(0) + np.einsum("nd,nd->n", flat, flat)
        return np.sqrt(np.maximum(nearest, 0)).reshape(points.shape[:-1]) - DOT_RADIUS

    soup = refine(soup, DOT_RADIUS, outside)
    soup = cut(soup, outside(soup[..., :3]))
    return soup, (outside(_centroids(soup)) < 0).astype(int)


def paint(shape: Shape, how: Paint, rng: np.random.Generator) -> PaintedSurface:
    """A shape in its final place and size, painted. The first colour covers at least as much as the second, nearly.

    Raises ValueError for an unknown pattern, or a pattern of two colours with only one.
    """
    if how.pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {how.pattern!r}; choose one of: {', '.join(PATTERNS)}")
    if how.pattern != "plain" and len(how.colours) < 2:
        raise ValueError(f"the pattern {how.pattern!r} needs two colours, got {len(how.colours)}")
    soup = loosen(shape)
    if how.pattern == "plain":
        return PaintedSurface(soup, np.zeros(len(soup), int), how.colours[:1])
    if how.pattern == "dotted":
        return PaintedSurface(*_dots(soup, rng), how.colours[:2])
    around = how.along == "around"
    axis = "xyz".index(how.along) if how.along in ("x", "y", "z") else int(np.ptp(soup[..., :3], axis=(0, 1)).argmax())
    if how.pattern == "striped" and around:
        soup, index = _sectors(soup)
    elif how.pattern in ("striped", "checked"):
        axes = (axis,) if how.pattern == "striped" else (2,) if around else (0, 1, 2)
        borders = {i: _borders(soup, i) for i in axes}
        for i in axes:
            for level in borders[i]:
                soup = cut(soup, soup[..., i] - level)
        soup, index = _sectors(soup) if around else (soup, 0)
        index = sum((np.searchsorted(borders[i] - 1e-7, _centroids(soup)[:, i]) for i in axes), index)
    else:
        axis = 2 if around else axis
        areas, position = triangle_areas(soup), _centroids(soup)[:, axis]
        order = position.argsort()
        share = np.cumsum(areas[order]) / areas.sum()
        low, high = soup[..., axis].min(), soup[..., axis].max()
        level = position[order[np.searchsorted(share, 0.52)]]
        level = np.clip(level, low + 0.3 * (high - low), low + 0.7 * (high - low))
        soup = cut(soup, soup[..., axis] - level)
        index = (_centroids(soup)[:, axis] > level).astype(int)
    surface = PaintedSurface(soup, index % 2, how.colours[:2])
    share = surface.area_of_colours()
    return surface if share[0] >= share[1] else PaintedSurface(soup, 1 - surface.index, how.colours[:2])


def assemble(surfaces: list[PaintedSurface]) -> trimesh.Trimesh:
    """One mesh of painted surfaces: vertices are shared where position, normal and colour agree.

    Vertex colours are uint8 RGBA; vertex normals are set, and hard edges are hard.
    """
    soup = np.concatenate([surface.soup for surface in surfaces])
    colour = np.concatenate([np.array(surface.colours, np.uint8)[surface.index] for surface in surfaces])
    corners = soup.reshape(-1, 6)
    corner_colour: UInt8[np.ndarray, "n 3"] = np.repeat(colour, 3, axis=0)
    normals = corners[:, 3:] / np.linalg.norm(corners[:, 3:], axis=1, keepdims=True)
    fields = np.concatenate([np.rint(corners[:, :3] * 1e6), np.rint(normals * 200), corner_colour], 1).astype(np.int64)
    odd = np.array(
        [
            0x9E3779B97F4A7C15,
            0xC2B2AE3D27D4EB4F,
            0x165667B19E3779F9,
            0xD6E8FEB86659FD93,
            0xA0761D6478BD642F,
            0xE7037ED1A0B428DB,
            0x8EBC6AF09C88C6E3,
            0x589965CC75374CC3,
            0x1D8E4E27C47D124F,
        ],
        np.uint64,
    )
    key = fields.view(np.uint64) @ odd
    _, first, faces = np.unique(key ^ (key >> np.uint64(29)), return_index=True, return_inverse=True)
    rgba = np.concatenate([corner_colour[first], np.full((len(first), 1), 255, np.uint8)], 1)
    points = corners[first, :3]
    faces = faces.reshape(-1, 3)
    return trimesh.Trimesh(points, faces, vertex_normals=normals[first], vertex_colors=rgba, process=False)
