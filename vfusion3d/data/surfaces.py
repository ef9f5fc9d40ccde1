"""From any trimesh mesh to what a renderer draws: triangles with normals, colours and at most one texture.

Notable: normals come from the triangles alone. Corners that meet over soft edges share one normal, an edge sharper than
`CREASE` splits it, so that a box shades flat and a sphere smooth however their vertices happen to be shared. The light
is a function of the normal only: it hangs in the world, it is the same from every view, it never goes black.
"""

import math
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CREASE = math.radians(40)
DEFAULT_COLOUR = (200, 200, 200)  # light grey, where a mesh has no material


@dataclass(frozen=True)
class Surface:
    """Triangles of one material. Colours are sRGB; the texture, if there is one, is multiplied by them."""

    points: Float[np.ndarray, "points 3"]
    faces: Int[np.ndarray, "faces 3"]
    normals: Float[np.ndarray, "points 3"]  # unit length, outwards where the triangles are counter-clockwise
    colours: UInt8[np.ndarray, "points 3"]
    uv: Float[np.ndarray, "points 2"] | None = None  # v upwards, as OpenGL and trimesh have it
    texture: UInt8[np.ndarray, "height width 3"] | None = None  # first row on top


@dataclass(frozen=True)
class Light:
    """Brightness = ambient + normal . direct, in [0, 1]. direct: a world vector towards the light.

    The default comes from above, and a little from one side.
    """

    ambient: float = 0.7
    direct: tuple[float, float, float] = (0.12, -0.09, 0.25)


DEFAULT_LIGHT = Light()


def shade(normals: Float[np.ndarray, "*points 3"], light: Light = DEFAULT_LIGHT) -> Float[np.ndarray, "*points"]:
    """Brightness in [0, 1] of a surface by its unit normal in the world."""
    return np.clip(light.ambient + normals @ np.asarray(light.direct), 0.0, 1.0)


def surfaces_of(mesh: trimesh.Trimesh | trimesh.Scene) -> list[Surface]:
    """The surfaces of a mesh, or of every part of a scene with its transforms applied.

    Knows vertex colours, face colours, and materials with a base colour and a base texture; all else of a material
    (metal, roughness, transparency) is left out. Raises ValueError for a mesh without faces or with NaN vertices.
    """
    parts = mesh.dump() if isinstance(mesh, trimesh.Scene) else [mesh]
    parts = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise ValueError("the mesh has no faces: there is nothing to render")
    return [_surface(part) for part in parts]


def _surface(mesh: trimesh.Trimesh) -> Surface:
    points, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    if not np.isfinite(points).all():
        raise ValueError("the mesh has vertices that are NaN or infinite")
    normals, group = _corner_normals(points, faces)
    colours, per_face, uv, texture = _appearance(mesh)

    # A drawn point is a (vertex, smooth group) pair; with face colours every corner is its own.
    corner_vertex = faces.ravel()
    pair = np.arange(faces.size) if per_face else group * len(points) + corner_vertex
    _, corner, drawn = np.unique(pair, return_index=True, return_inverse=True)
    vertex = corner_vertex[corner]
    return Surface(
        points=points[vertex],
        faces=drawn.reshape(-1, 3),
        normals=normals[group[corner]],
        colours=colours[corner // 3 if per_face else vertex],
        uv=None if uv is None else uv[vertex],
        texture=texture,
    )


def _corner_normals(points, faces) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (groups, 3) and the group of each of the 3F corners: corners joined over soft edges are a group."""
    place = _same_place(points)[faces]  # (F, 3): vertices at the same position are one, whatever their texture says
    corners = points[faces]
    forward = np.roll(corners, -1, axis=1) - corners
    cross = np.cross(forward[:, 0], -forward[:, 2])
    length = np.linalg.norm(cross, axis=-1, keepdims=True)
    flat = np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)

    start, end = place, np.roll(place, -1, axis=1)
    low, high = np.minimum(start, end).ravel(), np.maximum(start, end).ravel()
    edge = low * (place.max() + 1) + high
    order = np.argsort(edge, kind="stable")
    same = edge[order][1:] == edge[order][:-1]
    first, second = order[:-1][same], order[1:][same]  # two half-edges (3 * face + corner) of one edge
    soft = (flat[first // 3] * flat[second // 3]).sum(-1) > math.cos(CREASE)
    first, second = first[soft], second[soft]

    def following(half_edge):
        return half_edge - half_edge % 3 + (half_edge + 1) % 3

    opposite = start.ravel()[first] == end.ravel()[second]  # neighbours usually run along their edge in opposite ways
    rows = np.concatenate([first, following(first)])
    columns = np.concatenate(
        [np.where(opposite, following(second), second), np.where(opposite, second, following(second))]
    )
    joins = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(faces.size, faces.size))
    count, group = connected_components(joins, directed=False)

    # Weighted by the corner's angle: how a quad is cut into triangles then makes no difference.
    side = np.linalg.norm(forward, axis=-1)
    cosine = -(forward * np.roll(forward, 1, axis=1)).sum(-1) / np.maximum(side * np.roll(side, 1, axis=1), 1e-300)
    weighted = (np.arccos(np.clip(cosine, -1, 1))[..., None] * flat[:, None]).reshape(-1, 3)
    total = np.stack([np.bincount(group, weighted[:, axis], count) for axis in range(3)], axis=-1)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return np.where(length > 1e-12, total / np.maximum(length, 1e-12), [0.0, 0.0, 1.0]), group.astype(np.int64)


def _same_place(points) -> np.ndarray:
    """One number for each distinct position, to a millionth of the mesh's size."""
    low = points.min(0)
    cell = np.round((points - low) / max(np.ptp(points, axis=0).max(), 1e-30) * (1 << 20)).astype(np.int64)
    return np.unique(cell[:, 0] << 42 | cell[:, 1] << 21 | cell[:, 2], return_inverse=True)[1]


def _appearance(mesh: trimesh.Trimesh):
    """Colours (per vertex, or per face if the second value is True), texture coordinates and texture of a mesh."""
    visual = mesh.visual
    default = np.tile(np.uint8(DEFAULT_COLOUR), (len(mesh.vertices), 1))
    if visual.kind == "vertex":
        return np.asarray(visual.vertex_colors, np.uint8)[:, :3], False, None, None
    if visual.kind == "face":
        return np.asarray(visual.face_colors, np.uint8)[:, :3], True, None, None
    known = trimesh.visual.material.PBRMaterial, trimesh.visual.material.SimpleMaterial
    if visual.kind != "texture" or not isinstance(visual.material, known):
        return default, False, None, None

    linear = isinstance(visual.material, trimesh.visual.material.PBRMaterial)  # glTF's factors are linear light
    tint = _tint(visual.material, mesh)
    image = visual.material.baseColorTexture if linear else visual.material.image
    if not linear and _is_placeholder(visual.material):
        return default, False, None, None
    if image is None or visual.uv is None or not np.isfinite(visual.uv).all():
        return default if tint is None else tint, False, None, None
    if tint is None or not linear:  # an MTL file's diffuse colour beside a texture is habitually grey and ignored
        tint = np.full_like(default, 255)
    return tint, False, np.asarray(visual.uv, np.float64)[:, :2], np.asarray(_rgb(image))


def _is_placeholder(material) -> bool:
    """Whether this is what trimesh gives texture coordinates without a material: a grey that is not the file's own."""
    stand_in = trimesh.visual.material.empty_material()
    image = material.image
    if image is None:
        return "kd" not in material.kwargs and np.array_equal(material.diffuse, stand_in.diffuse)
    return image.size == stand_in.image.size and np.array_equal(np.asarray(image), np.asarray(stand_in.image))


def _tint(material, mesh) -> np.ndarray | None:
    """The sRGB colour (V, 3) that a material and its vertex colours give, None where they say nothing."""
    if not isinstance(material, trimesh.visual.material.PBRMaterial):
        colour = getattr(material, "diffuse", None)
        return None if colour is None else np.tile(np.uint8(np.asarray(colour)[:3]), (len(mesh.vertices), 1))
    factor = material.baseColorFactor
    vertex = mesh.visual.vertex_attributes.get("color")
    if factor is None and vertex is None:
        return None if material.baseColorTexture is None else np.full((len(mesh.vertices), 3), 255, np.uint8)
    light = np.ones((len(mesh.vertices), 3))
    for colour in (factor, vertex):
        if colour is not None:
            colour = np.asarray(colour)
            light = light * (colour[..., :3] / 255 if colour.dtype.kind in "ui" else colour[..., :3])
    return to_srgb(light)


def to_srgb(light: Float[np.ndarray, "*colours 3"]) -> UInt8[np.ndarray, "*colours 3"]:
    """Linear light in [0, 1] as sRGB bytes."""
    light = np.clip(light, 0, 1)
    return np.uint8(np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)))


def _rgb(image) -> Image.Image:
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray(np.uint8(np.asarray(image).astype(np.uint32) >> 8))
    return image.convert("RGB")
