"""A mesh with its colours in a picture: unwrapped by xatlas, and baked from the field at every texel's own point.

The picture is finer than the faces, so that few faces are enough for the shape. What lies between the charts has the
colour of the nearest texel of one, so that no seam shows where a viewer reads a little beside a chart or a smaller copy
of the picture.
"""

from collections.abc import Callable

import cv2
import numpy as np
import trimesh
import xatlas
from jaxtyping import Float, Int, UInt8
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

PADDING = 4  # texels between charts
LARGEST_CHART = 0.025  # of the surface: without a bound xatlas takes twice as long, for 3% more texels along a line
SUBTEXELS = 6  # bits of a texel's fraction that OpenCV's polygons know


def textured(
    mesh: trimesh.Trimesh,
    colours_at: Callable[[Float[np.ndarray, "points 3"]], UInt8[np.ndarray, "points 3"]],
    size: int,
) -> trimesh.Trimesh:
    """The mesh with normals, UVs and a texture of size x size texels, rough and not metallic.

    colours_at: world points to sRGB colours. Vertices are doubled where charts meet; their normals are those of the
    whole surface.
    """
    corners, faces, uv = _unwrapped(mesh, size)
    vertices, normals = mesh.vertices[corners], mesh.vertex_normals[corners]
    face, weights = _texels(faces, uv, size)
    covered = face >= 0
    points = np.einsum("tc,tcd->td", weights, vertices[faces[face[covered]]])
    picture = np.zeros((size, size, 3), np.uint8)
    picture[covered] = colours_at(points)
    _, nearest = cv2.distanceTransformWithLabels(
        np.uint8(~covered), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    picture = picture[covered][nearest - 1]  # the covered texels are labelled row by row
    material = PBRMaterial(
        name="object", baseColorTexture=Image.fromarray(picture), metallicFactor=0.0, roughnessFactor=1.0
    )
    from_below = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1)  # trimesh counts v from the picture's lower edge
    visual = TextureVisuals(uv=from_below, material=material)
    return trimesh.Trimesh(vertices, faces, vertex_normals=normals, visual=visual, process=False)


def _unwrapped(
    mesh: trimesh.Trimesh, size: int
) -> tuple[Int[np.ndarray, "corners"], Int[np.ndarray, "faces 3"], Float[np.ndarray, "corners 2"]]:
    """Which vertex each new vertex was, the faces of the new ones, and their UVs, v from the picture's upper edge."""
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_chart_area = LARGEST_CHART * mesh.area
    packing.resolution, packing.padding = size, PADDING
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.float32(mesh.vertices), np.uint32(mesh.faces), np.float32(mesh.vertex_normals))
    atlas.generate(charts, packing)
    corners, faces, uv = atlas[0]
    return corners.astype(np.int64), faces.astype(np.int64), uv.astype(np.float64)


def _texels(
    faces: Int[np.ndarray, "faces 3"], uv: Float[np.ndarray, "corners 2"], size: int
) -> tuple[Int[np.ndarray, "size size"], Float[np.ndarray, "covered 3"]]:
    """The face of every texel, -1 for none, and the weights of its corners at the centres of those that have one."""
    corners = uv[faces] * size - 0.5  # a texel's centre has whole coordinates
    face = np.full((size, size), -1, np.int32)
    fixed = np.round(corners * 2**SUBTEXELS).astype(np.int32)
    for index, triangle in enumerate(fixed):
        cv2.fillConvexPoly(face, triangle, index, shift=SUBTEXELS)
    row, column = np.nonzero(face >= 0)
    a, b, c = corners[face[row, column]].transpose(1, 0, 2)
    (bx, by), (cx, cy), (x, y) = (b - a).T, (c - a).T, (np.stack([column, row], axis=1) - a).T
    area = bx * cy - by * cx
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    second, third = (x * cy - y * cx) / area, (bx * y - by * x) / area
    weights = np.stack([1 - second - third, second, third], axis=1).clip(0, 1)  # OpenCV fills what an edge touches
    return face, weights / weights.sum(1, keepdims=True)
