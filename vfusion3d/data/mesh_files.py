"""Mesh files of other people: read, flattened, stood upright, checked and fitted to the ball of radius 0.75.

Notable: the world's z is up. glTF and GLB have y up by their specification; OBJ, PLY and STL say nothing, and the
common habit is y for OBJ and z for PLY and STL (`UP`); `up` overrides it.
"""

from pathlib import Path

import numpy as np
import trimesh

from vfusion3d.data.images import only_listed_formats
from vfusion3d.data.surfaces import surfaces_of, to_srgb

RADIUS = 0.75
UP = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
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
    try:
        scene = trimesh.load_scene(path, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except Exception as error:  # the readers below raise whatever a broken file makes them stumble over
        raise MeshFileError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    if not parts:
        raise MeshFileError(f"{path}: has no faces (only points or lines, or nothing)")
    for part in parts:
        if not np.isfinite(part.vertices).all():
            raise MeshFileError(f"{path}: has vertices that are NaN or infinite")
        if part.faces.min() < 0 or part.faces.max() >= len(part.vertices):
            raise MeshFileError(f"{path}: has faces of vertices that are not there")
        part.vertices = part.vertices @ TO_Z_UP[up].T
        if kind in (".glb", ".gltf") and part.visual.kind == "vertex":  # glTF's vertex colours are linear light
            part.visual.vertex_colors = to_srgb(part.visual.vertex_colors[:, :3] / 255)
    try:
        return normalise(_joined(parts))
    except ValueError as error:
        raise MeshFileError(f"{path}: {error}") from error


def normalise(mesh: trimesh.Trimesh | trimesh.Scene) -> trimesh.Trimesh | trimesh.Scene:
    """A copy of the mesh, its bounding box centred on the origin, its farthest vertex at `RADIUS` world units.

    Raises ValueError for a mesh that is a single point.
    """
    parts = mesh.dump() if isinstance(mesh, trimesh.Scene) else [mesh.copy()]
    used = np.concatenate([part.vertices[np.unique(part.faces)] for part in parts])
    centre = (used.min(0) + used.max(0)) / 2
    extent = np.linalg.norm(used - centre, axis=-1).max()
    if not extent > 0:
        raise ValueError("the mesh is a single point")
    for part in parts:
        part.vertices = (part.vertices - centre) * (RADIUS / extent)
    return parts[0] if isinstance(mesh, trimesh.Trimesh) else trimesh.Scene(parts)


def mesh_paths(folder: str | Path) -> list[Path]:
    """The mesh files of a folder and its subfolders, sorted. FileNotFoundError where there are none."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in UP and path.is_file())
    if not paths:
        raise FileNotFoundError(f"{folder} has no mesh files ({', '.join(UP)})")
    return paths


def _joined(parts: list[trimesh.Trimesh]) -> trimesh.Trimesh | trimesh.Scene:
    """Parts as they are if one suffices, else all parts without a texture as one with vertex colours."""
    if len(parts) == 1:
        return parts[0]
    surfaces = [surface for part in parts for surface in surfaces_of(part)]
    plain = [
        trimesh.Trimesh(surface.points, surface.faces, vertex_colors=surface.colours, process=False)
        for surface in surfaces
        if surface.texture is None
    ]
    textured = [part for part, surface in zip(parts, surfaces, strict=True) if surface.texture is not None]
    joined = ([trimesh.util.concatenate(plain)] if plain else []) + textured
    return joined[0] if len(joined) == 1 else trimesh.Scene(joined)
