"""The files of meshes: what other programs find in them."""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh

from vfusion3d.model.mesh_export import mesh_files, to_files
from vfusion3d.model.texture import textured

COLOURS = np.array([[200, 30, 10], [10, 200, 90], [128, 128, 128], [0, 0, 0], [255, 255, 255], [20, 40, 200]], np.uint8)
CORNERS = np.array([[0.5, 0, 0], [-0.4, 0, 0], [0, 0.6, 0], [0, -0.3, 0], [0, 0, 0.7], [0, 0, -0.2]])
FACES = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]


def coloured() -> trimesh.Trimesh:
    """An octahedron whose corner on each half-axis has a length and a colour of its own."""
    return trimesh.Trimesh(CORNERS, FACES, vertex_colors=COLOURS, process=False)


def colour_of_place(points: np.ndarray) -> np.ndarray:
    return np.clip((points + 0.75) * 170, 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def ball() -> trimesh.Trimesh:
    """A ball of radius 0.5 with a texture, whose colour tells the place."""
    return textured(trimesh.creation.icosphere(3, 0.5), colour_of_place, 256)


def written(mesh: trimesh.Trimesh, path: Path) -> Path:
    for file, content in to_files(mesh, path).items():
        file.write_bytes(content)
    return path


def parts(file: Path) -> tuple[dict, bytes]:
    content = file.read_bytes()
    length = struct.unpack_from("<I", content, 12)[0]
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def attribute(tree: dict, binary: bytes, name: str) -> np.ndarray:
    found = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][name]]
    view, width = tree["bufferViews"][found["bufferView"]], {"VEC2": 2, "VEC3": 3}[found["type"]]
    assert found["componentType"] == 5126
    start = view.get("byteOffset", 0) + found.get("byteOffset", 0)
    return np.frombuffer(binary, np.float32, found["count"] * width, start).reshape(-1, width)


# -------------------------------------------------------------------------------------------------------------- GLB


def test_a_glb_is_y_up_with_the_photographed_side_to_the_front(tmp_path):
    (loaded,) = trimesh.load(written(coloured(), tmp_path / "mesh.glb")).dump()
    x, y, z = CORNERS.T
    assert np.allclose(loaded.vertices, np.stack([y, z, x], axis=1), atol=1e-6), "glTF: y up, front +z, right +x"
    assert loaded.volume == pytest.approx(coloured().volume), "faces still look outwards"


def test_a_textured_glb_has_a_rough_material_without_metal_a_texture_and_unit_normals(ball, tmp_path):
    tree, binary = parts(written(ball, tmp_path / "ball.glb"))
    (material,) = tree["materials"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert tree["meshes"][0]["primitives"][0]["material"] == 0
    assert "baseColorTexture" in material["pbrMetallicRoughness"]
    place, normals = attribute(tree, binary, "POSITION"), attribute(tree, binary, "NORMAL")
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert (normals * place / 0.5).sum(1).min() > 0.99, "a ball's normals point away from its centre, at seams too"


def test_a_glb_with_vertex_colours_holds_them_in_linear_light_for_a_material_that_shows_them_as_they_are(tmp_path):
    tree, binary = parts(written(coloured(), tmp_path / "mesh.glb"))
    colours = attribute(tree, binary, "COLOR_0")
    back = np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * np.maximum(colours, 1e-9) ** (1 / 2.4) - 0.055)
    assert np.abs(back * 255 - COLOURS).max() < 0.01
    look = tree["materials"][0]["pbrMetallicRoughness"]
    assert (look["metallicFactor"], look["roughnessFactor"]) == (0, 1)
    transform = look["baseColorTexture"]["extensions"]["KHR_texture_transform"]
    assert transform["scale"] == [0, 0], "every vertex reads one place of the texture"
    image = trimesh.load(tmp_path / "mesh.glb").dump()[0].visual.material.baseColorTexture
    column, row = (int(part * side) for part, side in zip(transform["offset"], image.size))
    assert image.convert("RGB").getpixel((column, row)) == (255, 255, 255), "and that is white"
    assert tree["extensionsUsed"] == ["KHR_texture_transform"]


def test_trimesh_which_passes_over_vertex_colours_of_a_material_shows_them_all_the_same(tmp_path):
    (loaded,) = trimesh.load(written(coloured(), tmp_path / "mesh.glb")).dump()
    shown = loaded.visual.to_color().vertex_colors[:, :3].astype(int)
    assert np.abs(shown - COLOURS).max() <= 1
    many = trimesh.creation.icosphere(4, 0.5)
    many.visual.vertex_colors = colour_of_place(many.vertices)
    (loaded,) = trimesh.load(written(many, tmp_path / "many.glb")).dump()
    off = np.abs(loaded.visual.to_color().vertex_colors[:, :3].astype(int) - colour_of_place(many.vertices))
    assert off.mean() < 45, "colours all over the cube have no picture of two axes: about right is what there is"


def test_the_validator_of_glTF_finds_no_error_and_no_warning(ball, tmp_path):
    code = "const v=require('gltf-validator');const fs=require('fs');"
    code += "Promise.all(process.argv.slice(1).map(f=>v.validateBytes(new Uint8Array(fs.readFileSync(f)))))"
    code += ".then(all=>console.log(JSON.stringify(all.map(r=>r.issues))))"
    if not shutil.which("node"):
        pytest.skip("node is not here: install it, and `npm install -g gltf-validator`")
    root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip()
    paths = {**os.environ, "NODE_PATH": os.pathsep.join([os.environ.get("NODE_PATH", ""), root])}
    if subprocess.run(["node", "-e", "require('gltf-validator')"], env=paths, capture_output=True).returncode:
        pytest.skip("gltf-validator is not here: `npm install -g gltf-validator`")
    files = [str(written(mesh, tmp_path / f"{n}.glb")) for n, mesh in enumerate((ball, coloured()))]
    told = subprocess.run(["node", "-e", code, *files], env=paths, capture_output=True, text=True, check=True).stdout
    for issues in json.loads(told):
        assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


# ------------------------------------------------------------------------------------------------- OBJ, PLY and STL


@pytest.mark.parametrize("name", ["ball.obj", "a ball (1) ü.obj", "#%.obj"])
def test_a_textured_obj_is_three_files_that_name_each_other_safely(ball, tmp_path, name):
    path = written(ball, tmp_path / name)
    picture, materials, _ = mesh_files(path, textured=True)
    assert {file.name for file in tmp_path.iterdir()} == {picture.name, materials.name, name}
    assert f"mtllib {materials.name}\n" in path.read_text()
    assert f"map_Kd {picture.name}\n" in materials.read_text()
    assert not set(picture.name + materials.name) & set(" #%()ü\"'\\")
    loaded = trimesh.load(path, process=False)
    place = np.stack([loaded.vertices[:, 2], loaded.vertices[:, 0], loaded.vertices[:, 1]], axis=1)  # y up to z up
    assert np.abs(loaded.visual.to_color().vertex_colors[:, :3] - colour_of_place(place).astype(int)).max() < 6


def test_two_objs_whose_names_are_made_safe_do_not_share_their_textures():
    names = ("a b.obj", "a_b.obj", "a#b.obj", "a+b.obj")
    beside = [file for name in names for file in mesh_files(Path(name), textured=True)]
    assert len(set(beside)) == 12
    assert len(mesh_files(Path("a.glb"), textured=True)) == len(mesh_files(Path("a.obj"), textured=False)) == 1


def test_an_obj_with_vertex_colours_is_y_up_and_ply_and_stl_are_z_up(tmp_path):
    for name, place in (("mesh.obj", CORNERS[:, [1, 2, 0]]), ("mesh.ply", CORNERS), ("MESH.PLY", CORNERS)):
        loaded = trimesh.load(written(coloured(), tmp_path / name), process=False, maintain_order=True)
        assert np.allclose(loaded.vertices, place, atol=1e-6)
        assert np.array_equal(loaded.faces, FACES)
        assert np.array_equal(loaded.visual.vertex_colors[:, :3], COLOURS)
    loaded = trimesh.load(written(coloured(), tmp_path / "mesh.stl"))
    assert np.allclose(loaded.bounds, [CORNERS.min(0), CORNERS.max(0)])
    assert loaded.is_watertight


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_picture_of_the_textured_file_shows_every_place_in_its_colour(ball, tmp_path, suffix):
    """Seen by PyVista from the right, y up: on the ball of radius 0.5 every pixel's place is known."""
    pyvista = pytest.importorskip("pyvista")
    loaded = trimesh.load(written(ball, tmp_path / f"ball{suffix}"), process=False)
    (loaded,) = loaded.dump() if isinstance(loaded, trimesh.Scene) else (loaded,)
    image = getattr(loaded.visual.material, "baseColorTexture", None) or loaded.visual.material.image
    surface = pyvista.PolyData.from_regular_faces(loaded.vertices, loaded.faces)
    surface.active_texture_coordinates = np.float32(loaded.visual.uv)
    plotter = pyvista.Plotter(off_screen=True, window_size=(96, 96))
    plotter.add_mesh(surface, texture=pyvista.Texture(np.asarray(image.convert("RGB"))), lighting=False)
    plotter.camera_position = [(2, 0, 0), (0, 0, 0), (0, 1, 0)]
    plotter.enable_parallel_projection()
    plotter.camera.parallel_scale = 0.6
    picture = np.asarray(plotter.screenshot(return_img=True))[..., :3].astype(int)
    plotter.close()
    across, down = np.meshgrid((np.arange(96) + 0.5) / 80 - 0.6, (np.arange(96) + 0.5) / 80 - 0.6)
    inside = np.hypot(across, down) < 0.42
    x, y, z = np.sqrt(0.25 - across[inside] ** 2 - down[inside] ** 2), -down[inside], -across[inside]
    expected = colour_of_place(np.stack([z, x, y], axis=1)).astype(int)
    assert np.abs(picture[inside] - expected).mean() < 2.5
