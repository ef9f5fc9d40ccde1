"""Mesh files: every format upright, in its colours and in the ball; every broken file an error that names it."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from vfusion3d import cameras
from vfusion3d.data.mesh_files import MeshFileError, load_mesh, mesh_paths, normalise, outwards, passed_over
from vfusion3d.data.render import render_views
from vfusion3d.data.surfaces import DEFAULT_COLOUR, surfaces_of

ASSETS = Path(__file__).parents[2] / "shared" / "assets"


def steeple(up: int) -> trimesh.Trimesh:
    """A thin pyramid that points along axis `up`, so that one can see what became of it."""
    ground = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 5]], float)
    faces = [[0, 2, 1], [0, 3, 2], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
    return trimesh.Trimesh(np.roll(ground, up + 1, axis=1), faces, process=False)


@pytest.mark.parametrize(("name", "up"), [("a.glb", 1), ("a.gltf", 1), ("a.obj", 1), ("a.ply", 2), ("a.stl", 2)])
def test_every_format_stands_upright_in_the_ball(tmp_path, name, up):
    steeple(up).export(tmp_path / name)
    mesh = load_mesh(tmp_path / name)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.75, abs=1e-6)
    assert np.allclose(mesh.bounds.sum(0), 0, atol=1e-6)
    width, depth, height = np.ptp(mesh.bounds, axis=0)
    assert height == pytest.approx(2.5 * width, rel=1e-5) == pytest.approx(2.5 * depth, rel=1e-5)
    top = mesh.vertices[mesh.vertices[:, 2] > 0.4]
    assert np.allclose(top[:, :2], 0, atol=1e-6)  # the tip is up, not down
    assert mesh.volume > 0  # and nothing is mirrored or inside out


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_the_up_axis_can_be_told(tmp_path, up):
    steeple("xyz".index(up)).export(tmp_path / "a.stl")
    mesh = load_mesh(tmp_path / "a.stl", up=up)
    assert np.allclose(mesh.vertices[mesh.vertices[:, 2] > 0.4][:, :2], 0, atol=1e-6)
    assert mesh.volume > 0
    with pytest.raises(ValueError, match="up must be"):
        load_mesh(tmp_path / "a.stl", up="w")


def test_vertex_colours_are_kept_and_gltf_s_are_linear_light(tmp_path):
    mesh = steeple(1)
    colours = np.uint8([[255, 0, 0, 255], [0, 128, 0, 255], [0, 0, 64, 255], [255, 255, 255, 255], [188, 10, 90, 255]])
    mesh.visual.vertex_colors = colours
    for name in ("a.ply", "a.obj", "a.glb"):
        mesh.export(tmp_path / name)
    for name in ("a.ply", "a.obj"):
        assert (load_mesh(tmp_path / name).visual.vertex_colors == colours).all()
    light = colours[:, :3] / 255
    srgb = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(load_mesh(tmp_path / "a.glb").visual.vertex_colors[:, :3] - srgb).max() <= 0.5


def test_an_stl_file_is_light_grey(tmp_path):
    steeple(2).export(tmp_path / "a.stl")
    (surface,) = surfaces_of(load_mesh(tmp_path / "a.stl"))
    assert (surface.colours == DEFAULT_COLOUR).all()


def test_an_obj_with_texture_coordinates_and_no_material_is_light_grey_too(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n")
    (surface,) = surfaces_of(load_mesh(tmp_path / "a.obj"))
    assert surface.texture is None
    assert (surface.colours == DEFAULT_COLOUR).all()


def test_a_gltf_colour_factor_is_linear_and_multiplies_the_texture():
    quad = trimesh.Trimesh([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], [[0, 1, 2], [0, 2, 3]], process=False)
    for texture in (None, Image.new("RGB", (4, 4), (200, 100, 255))):
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=[55, 255, 128, 255], baseColorTexture=texture)
        quad.visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
        picture = render_views(quad, cameras.orbit_cameras(1, 0.0), cameras.INTRINSICS, 9, shading=False).rgba
        srgb = np.array([128, 255, 188])  # of 55/255, 1 and 128/255
        expected = srgb if texture is None else srgb * np.array([200, 100, 255]) / 255
        assert np.abs(picture[0, 4, 4, :3] - expected).max() <= 2


OBJ_WITH_MATERIALS = """mtllib a.mtl
v 0 -1 -1
v 0 0 -1
v 0 1 -1
v 0 -1 1
v 0 0 1
v 0 1 1
v 0 -1 2
v 0 1 2
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl {left}
f 1/1 2/2 5/3
f 1/1 5/3 4/4
usemtl {right}
f 2/1 3/2 6/3
f 2/1 6/3 5/4
usemtl {top}
f 4/1 6/2 8/3
f 4/1 8/3 7/4
"""
MTL = """newmtl red
Kd 1 0 0
newmtl blue
Kd 0 0 1
newmtl grey
Kd 0.4 0.4 0.4
newmtl one
Kd 0.8 0.8 0.8
map_Kd one.png
newmtl two
map_Kd two.png
"""


def write_obj(folder: Path, **materials: str) -> Path:
    (folder / "a.mtl").write_text(MTL)
    (folder / "a.obj").write_text(OBJ_WITH_MATERIALS.format(**materials))
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:32, :, 0], halves[32:, :, 1] = 250, 150
    Image.fromarray(halves).save(folder / "one.png")
    Image.new("RGB", (2, 2), (10, 20, 230)).save(folder / "two.png")
    return folder / "a.obj"


def colours_seen(mesh) -> list[list[int]]:
    """Of the left, right and top part of the object, each near its lower edge and near its upper one."""
    picture = render_views(mesh, cameras.orbit_cameras(1, 0.0), cameras.INTRINSICS, 256, shading=False).rgba[0]
    scale = 0.75 / np.linalg.norm([1, 1.5])
    points = np.array([[-0.5, -0.9], [-0.5, 0.9], [0.5, -0.9], [0.5, 0.9], [0, 1.1], [0, 1.9]]) - [0, 0.5]
    pixels = np.int64((0.5 + points * [1, -1] * scale * 0.75 / 1.5) * 256)
    return picture[pixels[:, 1], pixels[:, 0], :3].tolist()


def test_an_obj_of_plain_materials_becomes_one_mesh_in_their_colours(tmp_path):
    mesh = load_mesh(write_obj(tmp_path, left="red", right="blue", top="grey"), up="z")
    assert isinstance(mesh, trimesh.Trimesh)
    assert colours_seen(mesh) == [[255, 0, 0]] * 2 + [[0, 0, 255]] * 2 + [[102, 102, 102]] * 2


def test_several_textures_and_plain_materials_side_by_side_each_show_where_they_belong(tmp_path):
    mesh = load_mesh(write_obj(tmp_path, left="one", right="red", top="two"), up="z")
    assert isinstance(mesh, trimesh.Scene)
    assert np.allclose(np.linalg.norm(np.concatenate([p.vertices for p in mesh.dump()]), axis=1).max(), 0.75)
    assert colours_seen(mesh) == [[0, 150, 0], [250, 0, 0]] + [[255, 0, 0]] * 2 + [[10, 20, 230]] * 2


def test_transforms_of_a_scene_are_applied(tmp_path):
    scene = trimesh.Scene()
    for side in (-1, 1):
        box = trimesh.creation.box(extents=[1, 1, 1])
        box.visual.vertex_colors = np.tile(np.uint8([255, 255, 255, 255]), (8, 1))
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([3.5 * side, 0, 0]))
    scene.export(tmp_path / "a.glb")
    mesh = load_mesh(tmp_path / "a.glb")
    assert np.allclose(np.ptp(mesh.bounds, axis=0) / np.ptp(mesh.bounds[:, 2]), [8, 1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.glb", b"", "the file is empty"),
        ("a.obj", b"", "the file is empty"),
        ("a.glb", b"glTF\x02\x00\x00\x00 and then nonsense", "cannot be read"),
        ("a.gltf", b"{", "cannot be read"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n", "cannot be read|no faces"),
        ("a.stl", b"\x00" * 100, "no faces|cannot be read"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces|cannot be read"),
        ("a.obj", b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "NaN"),
        ("a.obj", b"v 0 0 0\nv inf 0 0\nv 0 1 0\nf 1 2 3\n", "infinite"),
        ("a.obj", b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "single point"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no area"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read|not there"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n\xfff 3 2 1\n", "line 5 is no text"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n\0\0f 1 2 3\nf 3 2 1\n", "line 4 is no text"),
        ("a.fbx", b"Kaydara", "known are"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it_and_the_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshFileError, match=reason) as raised:
        load_mesh(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


def test_a_missing_file_and_a_folder_without_meshes_are_errors(tmp_path):
    with pytest.raises(MeshFileError, match="no such file"):
        load_mesh(tmp_path / "a.obj")
    with pytest.raises(FileNotFoundError, match="no mesh files"):
        mesh_paths(tmp_path)


def test_no_notes_of_the_library_that_reads_reach_the_terminal(tmp_path, caplog):
    facet = "facet normal a b c\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n"
    (tmp_path / "a.stl").write_text(f"solid x\n{facet}endsolid\n")  # of which trimesh has a stack trace to tell
    assert len(load_mesh(tmp_path / "a.stl").faces) == 1
    assert not caplog.records


def test_files_of_formats_that_are_not_read_are_named(tmp_path):
    for name in ("b.FBX", "a.usdz", "sub/c.blend", "notes.txt", "d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in passed_over(tmp_path)] == ["a.usdz", "b.FBX", "c.blend"]
    with pytest.raises(FileNotFoundError, match=r"a\.usdz and its like are not read"):
        mesh_paths(tmp_path)


L_SHAPE = [(0.5, 0.5), (0.5, 2), (0, 2), (0, 0), (2, 0), (2, 0.5)]  # a fan from its first corner would be right, so:
L_SHAPE = L_SHAPE[3:] + L_SHAPE[:3]


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("kind", ["obj", "ply", "mixed.ply"])
def test_concave_polygons_beside_triangles_and_quads_keep_their_area(tmp_path, kind, turn):
    outline = L_SHAPE[turn:] + L_SHAPE[:turn]
    points = [(x, y, 0) for x, y in outline] + [(3, 0, 0), (4, 0, 0), (4, 1, 0), (3, 1, 0), (3, 3, 0)]
    faces = [(0, 1, 2, 3, 4, 5)] + ([] if kind == "ply" else [(6, 7, 8, 9), (9, 8, 10)])
    if kind == "obj":
        lines = ["v {} {} {}".format(*point) for point in points]
        lines += ["f " + " ".join(str(corner + 1) for corner in face) for face in faces]
        (tmp_path / "a.obj").write_text("\n".join(lines))
    else:
        head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
        head += "property float x\nproperty float y\nproperty float z\nproperty uchar red\nproperty uchar green\n"
        head += f"property uchar blue\nelement face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        body = b"".join(struct.pack("<3f3B", *point, 128, 64, 191) for point in points)
        body += b"".join(struct.pack(f"<B{len(face)}i", len(face), *face) for face in faces)
        (tmp_path / "a.ply").write_bytes(head.encode() + body)
    mesh = load_mesh(tmp_path / f"a.{kind[-3:]}")
    used = np.array([points[corner] for face in faces for corner in face])
    side = np.ptp(mesh.bounds[:, 0]) / np.ptp(used[:, 0])  # of what was 1 in the file
    assert mesh.area == pytest.approx((1.75 if kind == "ply" else 1.75 + 1 + 1) * side**2, rel=1e-5)
    if kind != "obj":
        assert (mesh.visual.vertex_colors[:, :3] == [128, 64, 191]).all()


def test_shells_that_are_inside_out_are_turned_and_disagreeing_faces_made_to_agree(tmp_path):
    ball, box = trimesh.creation.icosphere(subdivisions=2), trimesh.creation.box()
    box.apply_translation([3, 0, 0])
    box.invert()
    both = trimesh.util.concatenate([ball, box])
    both.faces[::7] = both.faces[::7, ::-1]
    both.export(tmp_path / "a.ply")
    mesh = load_mesh(tmp_path / "a.ply")
    assert mesh.is_winding_consistent
    assert all(part.volume > 0 for part in mesh.split())


def test_what_is_open_stays_as_the_file_has_it():
    room = trimesh.creation.box()
    room.invert()
    faces = room.faces[np.abs(room.face_normals[:, 0] - 1) > 0.5]  # without one wall, seen from inside
    assert (outwards(room.vertices, faces) == faces).all()
    plane = np.array([[0, 1, 2], [0, 2, 3]])
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    for faces in (plane, plane[:, ::-1]):
        assert (outwards(points, faces) == faces).all()


@pytest.mark.skipif(not ASSETS.exists(), reason="needs ../shared/assets")
def test_a_teapot_of_open_patches_is_turned_as_a_whole():
    mesh = load_mesh(ASSETS / "teapot.obj")
    assert (outwards(mesh.vertices, mesh.faces) == mesh.faces).all()
    assert (outwards(mesh.vertices, mesh.faces[:, ::-1]) == mesh.faces).all()


def test_missing_material_files_and_textures_of_an_obj_are_named(tmp_path):
    path = write_obj(tmp_path, left="one", right="red", top="two")
    assert "left_out" not in load_mesh(path).metadata
    (tmp_path / "two.png").unlink()
    (tmp_path / "one.png").write_bytes(b"no picture")
    left_out = load_mesh(path).metadata["left_out"]
    assert len(left_out) == 2
    assert "one.png, which cannot be read" in left_out[0]
    assert left_out[1] == "the texture two.png, which is missing"
    (tmp_path / "a.mtl").unlink()
    assert load_mesh(path).metadata["left_out"] == ["the materials of a.mtl, which is missing"]


def test_an_obj_glows_and_is_seen_through_as_its_materials_say_and_vertex_colours_tint_its_texture(tmp_path):
    path = write_obj(tmp_path, left="glow", right="glass", top="one")
    glass = "newmtl glass\nKd 0 0 1\nd 0.3333\n"
    (tmp_path / "a.mtl").write_text(MTL + "newmtl glow\nKd 0 0 0\nKe 1 0.5 0\n" + glass)
    left, _, right, _, *_ = colours_seen(load_mesh(path, up="z"))
    assert left == [255, 128, 0]
    assert right == [0, 0, 255]
    alpha = [one.alpha for one in surfaces_of(load_mesh(path)) if one.alpha is not None]
    assert len(alpha) == 1
    assert np.allclose(alpha[0], 0.3333, atol=0.01)
    path = write_obj(tmp_path, left="one", right="one", top="one")
    tinted = re.sub(r"^(v .*)$", r"\1 0.5 1 0", path.read_text(), flags=re.MULTILINE)
    path.write_text(tinted)
    assert colours_seen(load_mesh(path, up="z"))[:2] == [[0, 150, 0], [125, 0, 0]]


def test_normalise_leaves_the_given_mesh_alone_and_ignores_vertices_without_a_face():
    mesh = trimesh.Trimesh([[0, 0, 0], [4, 0, 0], [0, 4, 0], [99, 99, 99]], [[0, 1, 2]], process=False)
    before = mesh.vertices.copy()
    fitted = normalise(mesh)
    assert (mesh.vertices == before).all()
    assert np.linalg.norm(fitted.vertices[:3], axis=1).max() == pytest.approx(0.75)


@pytest.mark.skipif(not ASSETS.exists(), reason="needs ../shared/assets")
@pytest.mark.parametrize("name", ["Duck.glb", "BoxTextured.glb", "spot.obj", "teapot.obj"])
def test_real_assets_load_and_fill_the_picture(name):
    mesh = load_mesh(ASSETS / name)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.75, abs=1e-6)
    alpha = render_views(mesh, cameras.orbit_cameras(4, 0.3), cameras.INTRINSICS, 64).rgba[..., 3]
    assert (alpha > 127).mean(axis=(1, 2)).min() > 0.05
    assert (alpha[:, [0, -1]] == 0).all()
    if name == "Duck.glb":  # yellow, and its eyes are black and white
        colours = render_views(mesh, cameras.orbit_cameras(4, 0.3), cameras.INTRINSICS, 256, shading=False).rgba
        colours = colours[colours[..., 3] == 255][:, :3].astype(int)
        assert ((colours[:, 0] > 220) & (colours[:, 1] > 180) & (colours[:, 2] < 60)).mean() > 0.5
        assert (colours.max(-1) < 60).sum() > 50
