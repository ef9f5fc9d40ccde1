"""Mesh files of other people: read, flattened, stood upright, checked and fitted to the ball of radius 0.75.

Notable: the world's z is up. glTF and GLB have y up by their specification; OBJ, PLY and STL say nothing, and the
common habit is y for OBJ and z for PLY and STL (`UP`); `up` overrides it. What a file asks for and the renderer does
not draw is written in the mesh's metadata, in words, under "left_out".
"""

import codecs
import io
import re
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from vfusion3d.data.gltf import read_gltf
from vfusion3d.data.images import only_listed_formats
from vfusion3d.data.surfaces import Surface, bounded, half_edges, same_place, slices, surfaces_of

RADIUS = 0.75
UP = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
# Formats of meshes and scenes that are not read, so that a folder's reader can name them.
OTHER_FORMATS = (
    *(
        ".3dm",
        ".3ds",
        ".3mf",
        ".abc",
        ".blend",
        ".c4d",
        ".ctm",
        ".dae",
        ".drc",
        ".dxf",
        ".fbx",
        ".iges",
        ".igs",
        ".ifc",
    ),
    *(".lwo", ".lws", ".ma", ".max", ".mb", ".ms3d", ".obj.gz", ".off", ".ply.gz", ".skp", ".sldprt", ".spz", ".splat"),
    *(".step", ".stp", ".usd", ".usda", ".usdc", ".usdz", ".vox", ".vrm", ".vtk", ".vtp", ".wrl", ".x", ".x3d", ".zip"),
)
PLY_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
}
FLATTEST = 1e-9  # area of a mesh over the square of its size: less is nothing to see
TO_Z_UP = {
    "x": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "z": np.eye(3),
}


class MeshFileError(ValueError):
    """A mesh file that cannot be used; the message names the file and the reason."""


@only_listed_formats()
def load_mesh(path: str | Path, up: str | None = None) -> trimesh.Trimesh | trimesh.Scene:
    """Read a GLB, glTF, OBJ, PLY or STL file as one upright, centred mesh of radius 0.75.

    Transforms of a scene are applied, parts that need no texture are joined by their colours. What has several textures
    stays a `trimesh.Scene` of one part a texture (with no transforms left); anything else is a `trimesh.Trimesh`.
    up: the file's own up axis ("x", "y" or "z"), by default that of its format. Raises MeshFileError, naming the file
    and the reason, for files that are missing, empty, unreadable, without faces or with NaN vertices.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in UP:
        raise MeshFileError(f"{path}: {kind or 'no'} file type; known are {', '.join(UP)}")
    up = UP[kind] if up is None else up
    if up not in TO_Z_UP:
        raise ValueError(f'up must be "x", "y" or "z", not {up!r}')
    if not path.is_file():
        raise MeshFileError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise MeshFileError(f"{path}: the file is empty")
    log = trimesh.util.log  # its notes on a broken file come with stack traces
    told, log.disabled = log.disabled, True
    try:
        parts, left_out = _read(path, kind)
    except Exception as error:  # the readers below raise whatever a broken file makes them stumble over
        detail = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise MeshFileError(f"{path}: cannot be read ({' '.join(detail.split())})") from error
    finally:
        log.disabled = told
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise MeshFileError(f"{path}: has no faces (only points or lines, or nothing)")
    for part in parts:
        if not np.isfinite(part.vertices).all():
            raise MeshFileError(f"{path}: has vertices that are NaN or infinite")
        if part.faces.min() < 0 or part.faces.max() >= len(part.vertices):
            raise MeshFileError(f"{path}: has faces of vertices that are not there")
        uv = getattr(part.visual, "uv", None)
        if uv is not None and getattr(part.visual.material, "image", True) and not np.array_equal(bounded(uv), uv):
            part.visual.uv = bounded(uv)
            left_out.append("texture coordinates beyond all bounds (wrapped)")
        part.vertices = part.vertices @ TO_Z_UP[up].T
        part.faces = outwards(part.vertices, part.faces)
    try:
        mesh = normalise(_joined(parts))
    except ValueError as error:
        raise MeshFileError(f"{path}: {error}") from error
    if left_out:
        mesh.metadata["left_out"] = list(dict.fromkeys(left_out))
    return mesh


def normalise(mesh: trimesh.Trimesh | trimesh.Scene) -> trimesh.Trimesh | trimesh.Scene:
    """A copy of the mesh, its bounding box centred on the origin, its farthest vertex at `RADIUS` world units.

    Raises ValueError for a mesh that is a single point, or whose triangles have no area.
    """
    parts = mesh.dump() if isinstance(mesh, trimesh.Scene) else [mesh.copy()]
    used = [part.vertices[_used(part)] for part in parts]
    low, high = np.min([points.min(0) for points in used], axis=0), np.max([points.max(0) for points in used], axis=0)
    centre = low / 2 + high / 2
    extent = max(np.linalg.norm(points - centre, axis=-1).max() for points in used)
    if not extent > 0:
        raise ValueError("the mesh is a single point")
    if not np.isfinite(extent):
        raise ValueError("its vertices are too far apart to compute with")
    for part in parts:
        part.vertices = (part.vertices - centre) * (RADIUS / extent)
    if sum(_area(part) for part in parts) < FLATTEST * RADIUS**2:
        raise ValueError("its triangles have no area: all of their points lie on lines")
    return parts[0] if isinstance(mesh, trimesh.Trimesh) else trimesh.Scene(parts)


def outwards(points, faces) -> np.ndarray:
    """The faces, of each closed shell counter-clockwise as seen from outside.

    A shell is what hangs together over edges of two faces. Where its faces disagree, they are made to agree first (not
    on a Moebius strip). Then it is turned where its volume is negative and it is closed, or as good as: openings of
    less than a tenth of its area. Open ones follow: they are turned where most of the closed area was and, where
    nothing is closed, if they are inside out as one. A bowl, a leaf or a room without a wall stays as it is.
    """
    first, second, opposite, pair = half_edges(same_place(points)[faces])
    one, other = np.int32(first[pair] // 3), np.int32(second[pair] // 3)
    agree, count = opposite[pair], len(faces)
    # Every face twice, as it is and turned: neighbours that agree are joined like to like, others like to unlike.
    rows = np.concatenate([one, one + count])
    columns = np.concatenate([np.where(agree, other, other + count), np.where(agree, other + count, other)])
    joins = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(2 * count, 2 * count))
    _, copy = connected_components(joins, directed=False)
    _, shell = np.unique(np.minimum(copy[:count], copy[count:]), return_inverse=True)
    sign = np.where(copy[:count] > copy[count:], -1.0, 1.0)

    normal, middle = np.empty((count, 3)), np.empty((count, 3))  # normal: of twice the triangle's area
    for some in slices(count):
        a, b, c = (points[faces[some, corner]] for corner in range(3))
        normal[some], middle[some] = np.cross(b - a, c - a) * sign[some, None], (a + b + c) / 3
    area = np.linalg.norm(normal, axis=-1)

    def total(values):
        values = values if values.ndim == 2 else values[:, None]
        return np.stack([np.bincount(shell, column) for column in values.T], axis=-1)

    whole = np.maximum(total(area), 1e-300)
    away = middle - (total(middle * area[:, None]) / whole)[shell]
    volume = total((normal * away).sum(-1))[:, 0]
    closed = np.linalg.norm(total(normal), axis=-1) < 0.1 * whole[:, 0]
    solid = closed & (np.abs(volume) > 0.05 * total(area * np.linalg.norm(away, axis=-1))[:, 0])
    kept = total(area * sign)[:, 0] >= 0  # what most of a shell's faces say in the file
    turned_area = np.where(solid & (kept == (volume < 0)), whole[:, 0], 0).sum()
    all_wrong = turned_area > np.where(solid, whole[:, 0], 0).sum() / 2
    if not solid.any():
        normal = normal * np.where(kept, 1, -1)[shell, None]
        away = middle - (middle * area[:, None]).sum(0) / whole.sum()
        closed = np.linalg.norm(normal.sum(0)) < 0.1 * whole.sum()
        all_wrong = closed and (normal * away).sum() < -0.05 * (area * np.linalg.norm(away, axis=-1)).sum()
    wrong = np.where(solid, volume < 0, kept == all_wrong)
    turned = (sign < 0) ^ wrong[shell]
    return np.where(turned[:, None], faces[:, ::-1], faces) if turned.any() else faces


def mesh_paths(folder: str | Path) -> list[Path]:
    """The mesh files of a folder and its subfolders, sorted; links to nothing, too, which are to be said aloud.

    Raises FileNotFoundError where there are none.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in UP and not path.is_dir())
    if not paths:
        other = passed_over(folder)
        there = f"; {other[0].name} and its like are not read: export them as GLB" if other else ""
        raise FileNotFoundError(f"{folder} has no mesh files ({', '.join(UP)}){there}")
    return paths


def passed_over(folder: str | Path) -> list[Path]:
    """The files of a folder and its subfolders that hold meshes in a format which is not read, sorted."""
    return sorted(path for path in Path(folder).rglob("*") if path.name.lower().endswith(OTHER_FORMATS))


def _read(path: Path, kind: str) -> tuple[list[trimesh.Trimesh], list[str]]:
    """The parts of a file in its own axes, and what they leave out."""
    if kind in (".glb", ".gltf"):
        return read_gltf(path)
    if kind == ".obj":
        return _read_obj(path)
    if kind == ".ply":
        return _read_ply(path)
    parts = _parts(trimesh.load_scene(path, process=False))
    return [_welded(part) for part in parts], []


def _welded(part: trimesh.Trimesh) -> trimesh.Trimesh:
    """The part of an STL file, which has every corner by itself, with one vertex at each place."""
    place = same_place(part.vertices) if np.isfinite(part.vertices).all() else np.arange(len(part.vertices))
    points = np.empty((place.max(initial=-1) + 1, 3))
    points[place[::-1]] = part.vertices[::-1]
    return trimesh.Trimesh(points, place[part.faces], process=False)


def _parts(scene: trimesh.Scene) -> list[trimesh.Trimesh]:
    parts = scene.geometry.values()  # OBJ, PLY and STL files have no transforms, and copies of millions take a while
    return [part for part in parts if isinstance(part, trimesh.Trimesh)]


def _read_ply(path: Path) -> tuple[list[trimesh.Trimesh], list[str]]:
    """By trimesh what is all of triangles, else polygon by polygon: its fans are wrong for concave ones, and it knows
    no faces of several sizes (VTK's reader does, but a broken file ends the process).
    """
    content = path.read_bytes()
    head = content[:65536].partition(b"end_header")[0].decode("latin-1")
    named = re.search(r"^comment TextureFile\s+(.+?)\s*$", head, re.MULTILINE)
    lost = [named[1]] if named and not (path.parent / named[1]).is_file() else []
    left_out = [f"the texture {name}, which is missing" for name in lost]
    count = re.search(r"^element face (\d+)", head, re.MULTILINE)
    try:
        scene = trimesh.load_scene(path, process=False)
        for geometry in scene.geometry.values():
            geometry.metadata.pop("_ply_raw", None)  # as large as the mesh, and copied with it
        parts = _parts(scene)
        if not count or sum(len(part.faces) for part in parts) == int(count[1]):
            return parts, left_out
    except Exception:  # what it stumbles over are faces of several sizes, or a broken file, of which more is said below
        pass
    return [_polygons(content)], left_out


def _polygons(content: bytes) -> trimesh.Trimesh:
    """The mesh of a PLY file with polygons of any shape and number of corners."""
    head, found, body = content.partition(b"end_header")
    lines = [line.split() for line in head.decode("latin-1").splitlines()]
    if not found or lines[0] != ["ply"]:
        raise ValueError("it is cut off, or not a PLY file")
    (form,) = (line[1] for line in lines if line[:1] == ["format"])
    data = body.split(b"\n", 1)[-1].split() if form == "ascii" else body.partition(b"\n")[2]
    order = ">" if form == "binary_big_endian" else "<"
    elements: dict[str, tuple[int, list]] = {}
    for line in lines:
        if line[:1] == ["element"]:
            elements[line[1]] = (int(line[2]), [])
        elif line[:1] == ["property"]:
            kinds = [np.dtype(order + PLY_TYPES[kind]) for kind in line[1:-1] if kind != "list"]
            elements[list(elements)[-1]][1].append((line[-1], kinds))
    values, start = {}, 0
    for element, (count, properties) in elements.items():
        read = _ply_words if form == "ascii" else _ply_bytes
        values[element], start = read(data, start, count, properties)
    vertex, (corners, sizes) = values["vertex"], values["face"]
    points = np.stack([vertex[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    if len(corners) and not 0 <= corners.min() <= corners.max() < len(points):
        raise ValueError("it has faces of vertices that are not there")
    colours = None
    if {"red", "green", "blue"} <= vertex.keys():
        colours = np.stack([vertex[name] for name in ("red", "green", "blue")], axis=-1)
        colours = np.uint8(np.round(np.clip(colours, 0, 1) * 255) if colours.dtype.kind == "f" else colours)
    return trimesh.Trimesh(points, _cut(points, corners, sizes), vertex_colors=colours, process=False)


def _ply_bytes(data: bytes, start: int, count: int, properties):
    """The values of an element and where it ends: by name, or corners and sizes where it has lists."""
    if all(len(kinds) == 1 for _, kinds in properties):
        kind = np.dtype([(name, kinds[0]) for name, kinds in properties])
        rows = np.frombuffer(data, kind, count, start)
        return {name: rows[name] for name in kind.names or ()}, start + count * kind.itemsize
    starts, sizes, items = [], [], None
    for _ in range(count):
        for name, kinds in properties:
            length = 1
            if len(kinds) == 2:
                (length,) = np.frombuffer(data, kinds[0], 1, start).tolist()
                start += kinds[0].itemsize
                if "ind" in name:
                    items = kinds[1]
                    starts.append(start)
                    sizes.append(length)
            start += length * kinds[-1].itemsize
            if length < 0 or start > len(data):
                raise ValueError("it is cut off, or has a list of a length that cannot be")
    if items is None:
        return (np.zeros(0, np.int64), np.zeros(0, np.int64)), start
    parts = [np.frombuffer(data, items, size, at) for at, size in zip(starts, sizes, strict=True)]
    return (np.concatenate(parts).astype(np.int64), np.array(sizes)), start


def _ply_words(words: list[bytes], start: int, count: int, properties):
    """What `_ply_bytes` gives, of a file in ASCII."""
    if all(len(kinds) == 1 for _, kinds in properties):
        end = start + count * len(properties)
        rows = np.array(words[start:end], dtype=float).reshape(count, len(properties))
        return {name: column.astype(kinds[0]) for (name, kinds), column in zip(properties, rows.T, strict=True)}, end
    corners, sizes = [], []
    for _ in range(count):
        for name, kinds in properties:
            length = int(words[start]) if len(kinds) == 2 else 0
            if len(kinds) == 2 and "ind" in name:
                corners += words[start + 1 : start + 1 + length]
                sizes.append(length)
            start += 1 + length
    return (np.array(corners, dtype=float).astype(np.int64), np.array(sizes, np.int64)), start


def _concave(points, corners, sizes) -> np.ndarray:
    """Which polygons may not be cut as fans; corners: of all polygons, one after the other."""
    polygon = np.repeat(np.arange(len(sizes)), sizes)
    first, at = (np.cumsum(sizes) - sizes)[polygon], np.arange(len(corners))
    here = points[corners]
    ahead = here[np.where(at + 1 == first + sizes[polygon], first, at + 1)]
    behind = here[np.where(at == first, first + sizes[polygon] - 1, at - 1)]
    origin = here[first]
    normal = np.cross(here - origin, ahead - origin)
    normal = np.stack([np.bincount(polygon, column, len(sizes)) for column in normal.T], axis=-1)
    turn = np.cross(here - behind, ahead - here)
    return np.bincount(polygon, (turn * normal[polygon]).sum(-1) < 0, len(sizes)) > 0


def _cut(points, corners, sizes) -> np.ndarray:
    """Polygons as triangles (T, 3)."""
    concave, first, found = _concave(points, corners, sizes), np.cumsum(sizes) - sizes, [np.zeros((0, 3), np.int64)]
    for size in np.unique(sizes[~concave]).tolist():
        rows = corners[first[(sizes == size) & ~concave][:, None] + np.arange(size)]
        found += [rows[:, [0, corner, corner + 1]] for corner in range(1, size - 1)]
    for number in np.flatnonzero(concave):
        own = corners[first[number] : first[number] + sizes[number]]
        found.append(own[_cut_concave(points[own])])
    return np.concatenate(found)


def _cut_concave(outline) -> np.ndarray:
    """The triangles of a concave polygon, by the places of their corners."""
    import pyvista

    return pyvista.PolyData(outline, faces=[len(outline), *range(len(outline))]).triangulate().regular_faces


def _read_obj(path: Path) -> tuple[list[trimesh.Trimesh], list[str]]:
    """By trimesh, after concave polygons were cut; colours of vertices beside a material are kept as "colour"."""
    content = path.read_bytes()
    if odd := re.search(rb"\x00|^[ \t]*(?!#)[!-~]*[\x80-\xff]", content.removeprefix(codecs.BOM_UTF8), re.MULTILINE):
        line = content.count(b"\n", 0, odd.start()) + 1
        raise ValueError(f"line {line} is no text of an OBJ file")
    left_out, masks = _linked_files(path, content)
    resolver = trimesh.resolvers.FilePathResolver(str(path))
    cut = _without_concave_polygons(content)
    parts = _parts(trimesh.load_scene(io.BytesIO(cut), file_type="obj", resolver=resolver, process=False))
    number = rb"[ \t]+([-+.\deE]+)"
    coloured = re.findall(rb"^v" + number * 6 + rb"[ \t]*\r?$", content, re.MULTILINE)
    table = np.array(coloured, dtype=float).reshape(-1, 6)
    tree = cKDTree(table[:, :3]) if len(table) else None
    for part in parts:
        if part.visual.kind != "texture":
            continue
        if (mask := masks.get(part.visual.material.name)) is not None:
            part.visual.material.kwargs["alpha_picture"] = mask
        if tree is not None:
            colour = table[tree.query(part.vertices)[1], 3:]
            part.vertex_attributes["colour"] = np.uint8(np.round(np.clip(colour, 0, 1) * 255))
    return parts, left_out


def _linked_files(path: Path, content: bytes) -> tuple[list[str], dict[str, np.ndarray]]:
    """What an OBJ file names and is not there, or is left out; and the opacity pictures of its materials by name."""
    left_out, masks, material = [], {}, None
    for name in re.findall(rb"^[ \t]*mtllib[ \t]+(.+?)[ \t]*\r?$", content, re.MULTILINE):
        library = path.parent / name.decode("utf-8", "replace")
        if not library.is_file():
            left_out.append(f"the materials of {library.name}, which is missing")
            continue
        for line in library.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.strip().partition(" ")
            key, value = key.lower(), value.strip()
            if key == "newmtl":
                material = value
            elif key in ("map_kd", "map_d"):
                try:
                    with Image.open(path.parent / value) as picture:
                        if key == "map_d":
                            bands = (
                                picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else picture
                            )
                            masks[material] = np.asarray(bands.convert("L"))
                        else:
                            picture.load()
                except FileNotFoundError:
                    left_out.append(f"the texture {value}, which is missing")
                except Exception as error:  # Pillow raises whatever a broken picture makes it stumble over
                    left_out.append(f"the texture {value}, which cannot be read ({type(error).__name__})")
            elif key.startswith("map_") or key in ("bump", "norm", "refl"):
                left_out.append({"map_ke": "glow map", "map_bump": "normal map"}.get(key, key))
    return left_out, masks


def _without_concave_polygons(content: bytes) -> bytes:
    """An OBJ file whose polygons may be cut as fans: concave ones become triangles of the same corners."""
    lines = list(re.finditer(rb"^[ \t]*f((?:[ \t]+[-\d/]+){4,})[ \t]*\r?$", content, re.MULTILINE))
    if not lines:
        return content
    number = rb"[ \t]+([-+.\deE]+)"
    starts, rows = [], []
    for found in re.finditer(rb"^[ \t]*v" + number * 3, content, re.MULTILINE):
        starts.append(found.start())
        rows.append(found.groups())
    points = np.array(rows, dtype=float).reshape(-1, 3)
    corners, sizes = [], []
    for line in lines:
        places = [int(corner.split(b"/")[0]) for corner in line[1].split()]
        before = None
        for place in places:
            if place < 0 and before is None:
                before = int(np.searchsorted(starts, line.start()))
            corners.append(place - 1 if place > 0 else before + place)
        sizes.append(len(places))
    corners, sizes = np.array(corners), np.array(sizes)
    if corners.min() < 0 or corners.max() >= len(points):
        return content  # trimesh's reader says so
    first, concave = np.cumsum(sizes) - sizes, _concave(points, corners, sizes)
    pieces, end = [], 0
    for number_of in np.flatnonzero(concave):
        line, own = lines[number_of], slice(first[number_of], first[number_of] + sizes[number_of])
        words, triangles = line[1].split(), _cut_concave(points[corners[own]])
        cut = b"\n".join(b"f " + b" ".join(words[corner] for corner in triangle) for triangle in triangles)
        pieces += [content[end : line.start()], cut]
        end = line.end()
    return b"".join([*pieces, content[end:]])


def _joined(parts: list[trimesh.Trimesh]) -> trimesh.Trimesh | trimesh.Scene:
    """Parts as they are if one suffices, else all parts of plain colours as one with vertex colours."""
    if len(parts) == 1:
        return parts[0]
    plain, other = [], []
    for part in parts:
        if part.visual.kind == "vertex":
            plain.append(part)
            continue
        (surface,) = surfaces_of(part)
        if _is_plain(surface):
            colours = surface.colours
            plain.append(trimesh.Trimesh(surface.points, surface.faces, vertex_colors=colours, process=False))
        else:
            other.append(part)
    joined = ([trimesh.util.concatenate(plain)] if plain else []) + other
    return joined[0] if len(joined) == 1 else trimesh.Scene(joined)


def _is_plain(surface: Surface) -> bool:
    return surface.texture is None and surface.alpha is None and surface.glow is None and surface.lit


def _used(part: trimesh.Trimesh) -> np.ndarray:
    used = np.zeros(len(part.vertices), bool)
    used[part.faces.ravel()] = True
    return used


def _area(part: trimesh.Trimesh) -> float:
    total, points, faces = 0.0, part.vertices.view(np.ndarray), part.faces.view(np.ndarray)
    for some in slices(len(faces)):
        a, b, c = (points[faces[some, corner]] for corner in range(3))
        total += float(np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum() / 2)
    return total
