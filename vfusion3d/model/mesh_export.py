"""A mesh as the files that other programs open: what each format calls up, and where it keeps colours.

GLB and OBJ are y up, the photographed side facing +z, as glTF says and as everybody reads OBJ. PLY and STL are z up, as
the project's world is, that side facing +x. A texture, an OBJ's colours and a PLY's are sRGB; glTF wants vertex colours
in linear light, so a GLB holds those, in floats.
"""

import re
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import distance_transform_edt
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from vfusion3d.data.surfaces import to_linear

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")
Z_UP_TO_Y_UP = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # (x, y, z) -> (y, z, x)
PALETTE = 128  # colours along a side of the picture that holds those of the vertices


def mesh_files(path: Path, textured: bool) -> list[Path]:
    """The files that a mesh at this path consists of: itself last, before it an OBJ's picture and materials.

    Those have the OBJ's name without what a line of an OBJ, or another program, might trip over.
    """
    if path.suffix.lower() != ".obj" or not textured:
        return [path]
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)
    safe = safe if safe == path.stem else f"{safe}_{zlib.crc32(path.stem.encode()):08x}"  # "a b" is not "a_b"
    return [path.with_name(f"{safe}_texture.png"), path.with_name(f"{safe}.mtl"), path]


def to_files(mesh: trimesh.Trimesh, path: Path) -> dict[Path, bytes]:
    """The content of every file of a mesh, z up, with a texture or with vertex colours, in the order of `mesh_files`.

    path: its suffix, one of `MESH_SUFFIXES`, is the format. A PLY holds vertex colours, an STL the shape alone.
    """
    has_texture = isinstance(mesh.visual, TextureVisuals)
    files = mesh_files(path, has_texture)
    kind = path.suffix.lower()
    if kind == ".glb":
        return {path: textured_glb(mesh) if has_texture else coloured_glb(mesh)}
    if kind != ".obj":
        return {path: mesh.export(file_type=kind[1:])}
    if not has_texture:
        return {path: export_obj(_y_up(mesh), include_normals=True, header=None).encode()}
    picture, materials, _ = files
    text = export_obj(_y_up(mesh), include_normals=True, header=None, mtl_name=materials.name)
    material = f"newmtl object\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {picture.name}\n"
    return {picture: _png(mesh.visual.material.baseColorTexture), materials: material.encode(), path: text.encode()}


def textured_glb(mesh: trimesh.Trimesh) -> bytes:
    """A mesh with a texture (`texture.textured`), z up, as a glTF binary, y up, with its normals."""
    return export_glb(trimesh.Scene({"object": _y_up(mesh)}), include_normals=True)


def coloured_glb(mesh: trimesh.Trimesh) -> bytes:
    """A mesh with vertex colours, z up, as a glTF binary, y up, with its normals and a rough material.

    Notable: trimesh passes over the vertex colours of what has a material, and most viewers draw what has none as dark
    metal. So the material has a texture too, of these colours, to which the UVs point. It is moved to its white corner
    by KHR_texture_transform, which trimesh does not know, and all others do: they multiply the vertex colours by 1.
    """
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3]
    picture, uv = _palette(colours)
    turned = _y_up(mesh)
    turned.vertex_attributes["_COLOR_0"] = to_linear(colours / 255).astype(np.float32)
    material = PBRMaterial(
        name="object", baseColorTexture=Image.fromarray(picture), metallicFactor=0.0, roughnessFactor=1.0
    )
    turned.visual = TextureVisuals(uv=np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), material=material)
    white = 1 - 0.5 / PALETTE

    def finish(tree: dict) -> None:
        _standard_colours(tree)
        texture = tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        texture["extensions"] = {"KHR_texture_transform": {"offset": [white, white], "scale": [0, 0]}}
        tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_texture_transform"]
        tree["samplers"] = [{"magFilter": 9728, "minFilter": 9728}]  # nearest: white next to colours stays white
        tree["textures"][0]["sampler"] = 0

    return export_glb(trimesh.Scene({"object": turned}), include_normals=True, tree_postprocessor=finish)


def viewer_glb(mesh: trimesh.Trimesh, cam2world: Float[np.ndarray, "3 4"]) -> bytes:
    """A mesh with vertex colours for the notebook's viewer: sRGB, shown as they are, without a lamp, and a camera.

    That viewer does not convert colours. cam2world: where it starts, z up, OpenGL axes.
    """
    turned = _y_up(mesh)
    turned.visual.vertex_colors = mesh.visual.vertex_colors
    scene = trimesh.Scene({"object": turned})
    scene.camera = trimesh.scene.Camera(resolution=(640, 480), fov=(48, 36), z_near=0.1, z_far=20)
    scene.camera_transform = Z_UP_TO_Y_UP @ np.concatenate([cam2world, [[0, 0, 0, 1]]])
    return export_glb(scene, include_normals=False, tree_postprocessor=_unlit)


def _y_up(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    turn = Z_UP_TO_Y_UP[:3, :3]
    turned = trimesh.Trimesh(
        mesh.vertices @ turn.T, mesh.faces, vertex_normals=mesh.vertex_normals @ turn.T, process=False
    )
    turned.visual = mesh.visual.copy()
    return turned


def _palette(
    colours: UInt8[np.ndarray, "vertices 3"],
) -> tuple[UInt8[np.ndarray, "size size 3"], Float[np.ndarray, "vertices 2"]]:
    """A picture of an object's colours, and where each vertex's lies in it, v from its upper edge.

    Its axes are the two along which the colours differ most, so that between two colours lie those between them. Its
    lowest row is white.
    """
    centred = colours - colours.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    last = np.array([PALETTE - 1, PALETTE - 2])  # of the columns, and of the rows over the white one
    spread = np.maximum(np.ptp(along, axis=0), 1e-9)
    column, row = np.round((along - along.min(0)) / spread * last).astype(int).T
    sums, count = np.zeros((PALETTE, PALETTE, 3)), np.zeros((PALETTE, PALETTE, 1))
    np.add.at(sums, (row, column), colours)
    np.add.at(count, (row, column), 1)
    nearest = distance_transform_edt(count[..., 0] == 0, return_distances=False, return_indices=True)
    picture = np.round(sums / np.maximum(count, 1)).astype(np.uint8)[tuple(nearest)]
    picture[-1] = 255
    return picture, (np.stack([column, row], axis=1) + 0.5) / PALETTE


def _standard_colours(tree: dict) -> None:
    """trimesh writes float attributes only under a name of the application's own: give this one its glTF name."""
    for shape in tree["meshes"]:
        for primitive in shape["primitives"]:
            primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_COLOR_0")


def _unlit(tree: dict) -> None:
    tree["materials"] = [{"extensions": {"KHR_materials_unlit": {}}}]
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    for shape in tree["meshes"]:
        for primitive in shape["primitives"]:
            primitive["material"] = 0


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
