"""From any trimesh mesh to what a renderer draws: triangles with normals, colours, at most one texture and a glow.

Notable: normals come from the triangles alone. Corners that meet over soft edges share one normal, an edge sharper than
`CREASE` splits it, so that a box shades flat and a sphere smooth however their vertices happen to be shared. The light
is a function of the normal only: it hangs in the world, it is the same from every view, it never goes black.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CREASE = math.radians(40)
MAX_UV = 256.0  # repeats of a texture from its origin; renderers take minutes over thousands
MAX_TEXTURE = 8192  # pixels of a side
DEFAULT_COLOUR = (200, 200, 200)  # light grey, where a mesh has no material


@dataclass(frozen=True)
class Glow:
    """Linear light that a surface sends out beside what it reflects; its texture, if any, is multiplied by it."""

    light: Float[np.ndarray, "points 3"]
    uv: Float[np.ndarray, "points 2"] | None = None
    texture: UInt8[np.ndarray, "height width 3"] | None = None


@dataclass(frozen=True)
class Surface:
    """Triangles of one material. Colours are sRGB; the texture, if there is one, is multiplied by them."""

    points: Float[np.ndarray, "points 3"]
    faces: Int[np.ndarray, "faces 3"]
    normals: Float[np.ndarray, "points 3"]  # unit length, outwards where the triangles are counter-clockwise
    colours: UInt8[np.ndarray, "points 3"]
    uv: Float[np.ndarray, "points 2"] | None = None  # v upwards, as OpenGL and trimesh have it
    texture: UInt8[np.ndarray, "height width c"] | None = None  # RGB or RGBA, first row on top
    alpha: Float[np.ndarray, "points"] | None = None  # multiplies the texture's; None: opaque whatever that says
    cutoff: float | None = None  # alpha below it is a hole, the rest opaque; None: alpha is how much one sees of it
    glow: Glow | None = None
    lit: bool = True  # or its colours are shown as they are
    wrap: str = "repeat"  # "clamp" or "mirror": what the texture does beyond its borders
    nearest: bool = False  # texels with hard edges


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

    Knows vertex colours, face colours, and materials with base colour, base texture, cut-outs, transparency and glow
    (and what `gltf.read_gltf` adds to a part); all else of a material (metal, roughness, refraction) is left out.
    Raises ValueError for a mesh without faces or with NaN vertices.
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
    place = same_place(points)
    normals, group = _corner_normals(points, faces, place[faces])
    colours, per_face, look = _appearance(mesh)

    # A drawn point is a (vertex, smooth group) pair; with face colours every corner is its own.
    corner_vertex = faces.ravel()
    if per_face:
        corner = drawn = np.arange(faces.size)
    elif place.max() + 1 == len(points):  # every vertex has a place of its own: a group means a vertex
        corner, drawn = np.empty(len(normals), np.int64), group
        corner[group[::-1]] = np.arange(faces.size - 1, -1, -1)
    else:
        _, corner, drawn = np.unique(group * len(points) + corner_vertex, return_index=True, return_inverse=True)
    vertex = corner_vertex[corner]
    for name in {"uv", "alpha"} & look.keys():
        look[name] = look[name][vertex]
    if (glow := look.get("glow")) is not None:
        look["glow"] = Glow(glow.light[vertex], None if glow.uv is None else glow.uv[vertex], glow.texture)
    return Surface(
        points=points[vertex],
        faces=drawn.reshape(-1, 3),
        normals=normals[group[corner]],
        colours=colours[corner // 3 if per_face else vertex],
        **look,
    )


def _corner_normals(points, faces, place) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (groups, 3) and the group of each of the 3F corners: corners joined over soft edges are a group.

    place: (F, 3), the corners' positions by number: vertices at one position are one, whatever their texture says.
    """
    flat, angle = np.empty((len(faces), 3)), np.empty(faces.shape)
    for some in slices(len(faces)):
        flat[some], angle[some] = _flat_normals(points[faces[some]])
    first, second, opposite, _ = half_edges(place)  # neighbours usually run along their edge in opposite ways
    soft = np.empty(len(first), bool)
    for some in slices(len(first)):
        soft[some] = (flat[first[some] // 3] * flat[second[some] // 3]).sum(-1) > math.cos(CREASE)
    first, second, opposite = first[soft], second[soft], opposite[soft]

    def following(half_edge):
        return half_edge - half_edge % 3 + (half_edge + 1) % 3

    rows = np.concatenate([first, following(first)], dtype=np.int32)
    columns = np.concatenate(
        [np.where(opposite, following(second), second), np.where(opposite, second, following(second))], dtype=np.int32
    )
    joins = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(faces.size, faces.size))
    count, group = connected_components(joins, directed=False)

    # Weighted by the corner's angle: how a quad is cut into triangles then makes no difference.
    weighted = [np.bincount(group, (angle * flat[:, axis, None]).ravel(), count) for axis in range(3)]
    total = np.stack(weighted, axis=-1)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return np.where(length > 1e-12, total / np.maximum(length, 1e-12), [0.0, 0.0, 1.0]), group.astype(np.int64)


def _flat_normals(corners) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) of triangles (F, 3, 3), zero for those without area; the angles (F, 3) at their corners."""
    forward = np.roll(corners, -1, axis=1) - corners
    cross = np.cross(forward[:, 0], -forward[:, 2])
    length = np.linalg.norm(cross, axis=-1, keepdims=True)
    flat = np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)
    side = np.linalg.norm(forward, axis=-1)
    cosine = -(forward * np.roll(forward, 1, axis=1)).sum(-1) / np.maximum(side * np.roll(side, 1, axis=1), 1e-300)
    return flat, np.arccos(np.clip(cosine, -1, 1))


def slices(count: int, size: int = 1 << 18):
    """Bites that keep what is computed for each small, however large a mesh is."""
    return (slice(start, start + size) for start in range(0, count, size))


def half_edges(place: Int[np.ndarray, "faces 3"]):
    """Pairs of half-edges (3 * face + corner) that lie on one edge.

    Returns the first and the second of each pair, whether they run in opposite ways (as those of two faces that agree
    do), and whether they are alone on their edge.
    """
    start, end = place.ravel(), np.roll(place, -1, axis=1).ravel()
    edge = np.minimum(start, end) * (place.max() + 1) + np.maximum(start, end)
    order = np.argsort(edge, kind="stable")
    edge = edge[order]
    same = edge[1:] == edge[:-1]
    first, second = order[:-1][same], order[1:][same]
    before, after = np.append(False, same[:-1]), np.append(same[1:], False)
    return first, second, start[first] == end[second], ~(before | after)[same]


def same_place(points) -> np.ndarray:
    """One number for each distinct position, to a millionth of the mesh's size."""
    low = points.min(0)
    cell = np.round((points - low) / max(np.ptp(points, axis=0).max(), 1e-30) * (1 << 20)).astype(np.int64)
    from pandas import factorize

    return factorize(cell[:, 0] << 42 | cell[:, 1] << 21 | cell[:, 2])[0]


def _appearance(mesh: trimesh.Trimesh):
    """Colours (per vertex, or per face if the second value is True) of a mesh, and the other fields of its surface."""
    visual = mesh.visual
    default = np.tile(np.uint8(DEFAULT_COLOUR), (len(mesh.vertices), 1))
    if visual.kind == "vertex":
        return np.asarray(visual.vertex_colors, np.uint8)[:, :3], False, {}
    if visual.kind == "face":
        return np.asarray(visual.face_colors, np.uint8)[:, :3], True, {}
    material = visual.material if visual.kind == "texture" else None
    uv = None if material is None or visual.uv is None else bounded(np.asarray(visual.uv, np.float64)[:, :2])
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        return _gltf_appearance(mesh, material, uv, default)
    if not isinstance(material, trimesh.visual.material.SimpleMaterial) or _is_placeholder(material):
        return default, False, {}
    return _mtl_appearance(mesh, material, uv, default)


def _gltf_appearance(mesh, material, uv, default):
    """Of a glTF material, whose factors are linear light."""
    light = np.ones((len(mesh.vertices), 4))
    factors = (
        material.baseColorFactor,
        mesh.visual.vertex_attributes.get("color"),
        mesh.vertex_attributes.get("light"),
    )
    for factor in factors:
        if factor is not None:
            factor = np.asarray(factor)
            factor = factor / 255 if factor.dtype.kind in "ui" else factor
            light[:, : factor.shape[-1]] *= factor
    look = {"lit": not mesh.metadata.get("unlit", False)}
    if material.baseColorTexture is not None and uv is not None:
        look |= {"uv": uv, "texture": np.asarray(_pixels(material.baseColorTexture))}
        look |= {name: mesh.metadata[name] for name in ("wrap", "nearest") if name in mesh.metadata}
    elif material.emissiveFactor is None and all(factor is None for factor in factors):
        return default, False, look
    if material.alphaMode in ("MASK", "BLEND"):
        look["alpha"] = np.clip(light[:, 3], 0, 1)
        if material.alphaMode == "MASK":
            look["cutoff"] = 0.5 if material.alphaCutoff is None else float(material.alphaCutoff)
        if look.get("texture", default).shape[-1] == 4:
            look["texture"] = _bled(look["texture"])
    glow = mesh.vertex_attributes.get("glow")
    if glow is None and material.emissiveFactor is not None and material.emissiveFactor.any():
        glow = np.tile(material.emissiveFactor, (len(light), 1))
    if glow is not None:
        where = mesh.vertex_attributes.get("glow_uv")
        where = uv if where is None else bounded(np.asarray(where, np.float64))
        image = None if where is None else material.emissiveTexture
        look["glow"] = Glow(np.asarray(glow), where, None if image is None else np.asarray(_pixels(image))[..., :3])
    return to_srgb(light[:, :3]), False, look


def _mtl_appearance(mesh, material, uv, default):
    """Of a material of an MTL file, whose colours are sRGB. Its diffuse colour beside a texture is habitually grey and
    ignored; vertex colours, where the file has some, stand in its place.
    """
    colours = np.tile(np.uint8(np.asarray(material.diffuse)[:3]), (len(default), 1))
    look = {}
    if material.image is not None and uv is not None:
        look = {"uv": uv, "texture": np.asarray(_pixels(material.image))[..., :3]}
        colours = np.full_like(default, 255)
    if "colour" in mesh.vertex_attributes:
        colours = np.uint8(mesh.vertex_attributes["colour"])
    said = {name: value for name, value in material.kwargs.items() if name in ("d", "tr", "ke", "map_d", "map_ke")}
    opacity = _number(said.get("d"), 1.0) if "d" in said else 1 - _number(said.get("tr"), 0.0)
    mask = mesh.visual.material.kwargs.get("alpha_picture")
    if mask is not None and "texture" in look:
        mask = Image.fromarray(mask).resize(look["texture"].shape[1::-1])
        look["texture"] = _bled(np.dstack([look["texture"], np.asarray(mask)]))
    if opacity < 1 or look.get("texture", default).shape[-1] == 4:
        look["alpha"] = np.full(len(default), np.clip(opacity, 0, 1))
    glow = np.array([_number(value, 0.0) for value in said.get("ke", [])[:3]])
    if len(glow) == 3 and glow.any():
        look["glow"] = Glow(np.tile(to_linear(glow), (len(default), 1)))
    return colours, False, look


def _is_placeholder(material) -> bool:
    """Whether this is what trimesh gives texture coordinates without a material: a grey that is not the file's own."""
    stand_in = trimesh.visual.material.empty_material()
    image = material.image
    if image is None:
        return "kd" not in material.kwargs and np.array_equal(material.diffuse, stand_in.diffuse)
    return image.size == stand_in.image.size and np.array_equal(np.asarray(image), np.asarray(stand_in.image))


def to_srgb(light: Float[np.ndarray, "*colours 3"]) -> UInt8[np.ndarray, "*colours 3"]:
    """Linear light in [0, 1] as sRGB bytes."""
    light = np.clip(light, 0, 1)
    return np.uint8(np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)))


def to_linear(srgb: Float[np.ndarray, "*colours 3"]) -> Float[np.ndarray, "*colours 3"]:
    """sRGB in [0, 1] as linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def bounded(uv: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """Texture coordinates that a renderer can follow: by whole repeats nearer to 0, within `MAX_UV`, never NaN.

    What lies farther out wraps around, each coordinate for itself.
    """
    if not np.isfinite(uv).all() or np.abs(uv).max(initial=0) > MAX_UV:
        with np.errstate(invalid="ignore"):
            uv = uv - np.floor(np.nanmedian(uv, axis=0))
            uv = np.where(np.abs(uv) <= MAX_UV, uv, np.nan_to_num(np.mod(uv, 1.0)))
    return uv


def _bled(texture: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 4"]:
    """An RGBA texture whose invisible texels have the colour of the nearest visible one, or edges would be dark."""
    seen = texture[..., 3] > 0
    if seen.all() or not seen.any():
        return texture
    _, label = cv2.distanceTransformWithLabels(
        np.uint8(~seen), cv2.DIST_L2, cv2.DIST_MASK_3, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros(label.max() + 1, np.int64)
    nearest[label[seen]] = np.flatnonzero(seen)
    bled = texture[..., :3].reshape(-1, 3)[nearest[label]]
    return np.dstack([bled, texture[..., 3]])


def _number(words, otherwise: float) -> float:
    try:
        return float(words[-1] if isinstance(words, list) else words)
    except (TypeError, ValueError, IndexError):
        return otherwise


def _pixels(image) -> Image.Image:
    """RGB, or RGBA where there is an alpha channel, no side longer than a renderer takes."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray(np.uint8(np.asarray(image).astype(np.uint32) >> 8))
    if max(image.size) > MAX_TEXTURE:
        image = image.reduce(math.ceil(max(image.size) / MAX_TEXTURE))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
