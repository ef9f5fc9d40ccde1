"""Blender Cycles against PyVista: the same silhouettes, depth, normals and colours from the same cameras."""

import subprocess

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from vfusion3d import cameras
from vfusion3d.data.blender import PYTHON_VARIABLE, BlenderMissingError, blender_python
from vfusion3d.data.render import render_views
from vfusion3d.model.mesh_export import to_files
from vfusion3d.model.texture import textured

SIZE = 96
VIEWS = 3


def reason_to_skip() -> str | None:
    try:
        python = blender_python()
    except BlenderMissingError as error:
        return str(error)
    works = subprocess.run([python, "-c", "import bpy"], capture_output=True)
    return None if works.returncode == 0 else f"{python} cannot import bpy: run `make blender`"


@pytest.fixture(scope="module")
def both():
    """Views of one scene, lit and with depth and normals, by both renderers; off-centre cameras with fx != fy."""
    reason = reason_to_skip()
    if reason:
        pytest.skip(reason)
    pytest.importorskip("pyvista")
    box = trimesh.creation.box(extents=[0.7, 0.5, 0.3])
    box.visual.vertex_colors = np.tile(np.uint8([220, 60, 40, 255]), (8, 1))
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.25)
    ball.apply_translation([0.1, 0.2, 0.35])
    ball.visual.vertex_colors = np.tile(np.uint8([30, 90, 200, 255]), (len(ball.vertices), 1))
    scene = trimesh.Scene([box, ball])
    orbit = cameras.offset_cameras(cameras.orbit_cameras(VIEWS, 0.4), torch.Generator().manual_seed(0))
    intrinsics = torch.tensor([[0.75, 0.75, 0.5, 0.5], [0.9, 0.7, 0.45, 0.56], [0.7, 0.95, 0.55, 0.47]])
    return [
        render_views(scene, orbit, intrinsics, SIZE, depth=True, normals=True, backend=backend)
        for backend in ("pyvista", "blender")
    ]


def test_silhouettes_agree(both):
    ours, theirs = (views.rgba[..., 3] > 127 for views in both)
    for view in range(VIEWS):
        assert (ours[view] & theirs[view]).sum() / (ours[view] | theirs[view]).sum() > 0.98
    alpha = [views.rgba[..., 3].astype(float) for views in both]
    assert np.abs(alpha[0] - alpha[1]).mean() < 1.0


def test_depth_and_normals_agree(both):
    ours, theirs = both
    seen = np.isfinite(ours.depth) & np.isfinite(theirs.depth)
    assert (np.isfinite(ours.depth) != np.isfinite(theirs.depth)).mean() < 0.002
    assert np.quantile(np.abs(ours.depth[seen] - theirs.depth[seen]), 0.98) < 2e-3
    assert np.quantile(np.abs(ours.normals - theirs.normals)[seen].max(-1), 0.98) < 0.03


def test_lit_colours_are_alike_and_never_black(both):
    ours, theirs = both
    inside = (ours.rgba[..., 3] == 255) & (theirs.rgba[..., 3] == 255)
    ours, theirs = (views.rgba[inside][:, :3].astype(float) for views in both)
    assert np.abs(ours - theirs).mean() < 30
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9
    assert theirs.max(-1).min() > 30


def test_unlit_pixels_have_the_colours_of_the_texture(both):
    texture = np.uint8(np.random.default_rng(0).uniform(0, 255, (4, 4, 3)).repeat(16, 0).repeat(16, 1))
    corners = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], float)
    quad = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texture))
    quad.visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
    camera = cameras.orbit_cameras(1, 0.0)
    picture = render_views(quad, camera, cameras.INTRINSICS, 64, shading=False, backend="blender").rgba[0]
    inner = np.kron(np.ones((4, 4), bool), np.pad(np.ones((12, 12), bool), 2))
    assert np.abs(picture[..., :3].astype(int) - texture)[inner].max() <= 2


def test_edges_keep_the_colour_of_the_object(both):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    ball.visual.vertex_colors = np.tile(np.uint8([250, 240, 10, 255]), (len(ball.vertices), 1))
    camera = cameras.orbit_cameras(1, 0.2)
    picture = render_views(ball, camera, cameras.INTRINSICS, 48, shading=False, backend="blender").rgba[0]
    edge = (picture[..., 3] > 100) & (picture[..., 3] < 255)
    assert edge.sum() > 20
    assert np.abs(picture[edge][:, :3].astype(int) - [250, 240, 10]).max() <= 6


def test_without_blender_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "python"))
    with pytest.raises(BlenderMissingError, match=PYTHON_VARIABLE):
        blender_python()
    monkeypatch.delenv(PYTHON_VARIABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vfusion3d.data.blender.__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(BlenderMissingError, match="make blender"):
        blender_python()


def test_a_python_without_bpy_is_an_error_with_its_last_words(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'bpy'\" >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(script))
    with pytest.raises(RuntimeError, match="No module named 'bpy'"):
        render_views(trimesh.creation.box(), cameras.orbit_cameras(1, 0.0), cameras.INTRINSICS, 8, backend="blender")


LOOK = """
import math, sys, bpy
for number, file in enumerate(sys.argv[1:]):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    (bpy.ops.import_scene.gltf if file.endswith(".glb") else bpy.ops.wm.obj_import)(filepath=file)
    scene = bpy.context.scene
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera, camera.location, camera.rotation_euler = camera, (0, -2, 0), (math.pi / 2, 0, 0)  # upright, in front
    camera.data.type, camera.data.ortho_scale = "ORTHO", 1.2
    scene.world = bpy.data.worlds.new("world")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs[0].default_value = (1, 1, 1, 1)
    scene.render.engine, scene.cycles.samples, scene.view_settings.view_transform = "CYCLES", 8, "Standard"
    scene.render.resolution_x = scene.render.resolution_y = 64
    scene.render.filepath = f"{file}.png"
    bpy.ops.render.render(write_still=True)
"""


def test_our_files_stand_upright_in_blender_with_their_colours(tmp_path):
    """By Blender's own import: the photographed side to the front, on a ball whose colour tells the place."""
    if reason := reason_to_skip():
        pytest.skip(reason)

    def colour_of_place(points):
        return np.clip((points + 0.75) * 170, 0, 255).round().astype(np.uint8)

    ball = trimesh.creation.icosphere(4, 0.5)
    coloured = ball.copy()
    coloured.visual.vertex_colors = colour_of_place(ball.vertices)
    unwrapped = textured(ball, colour_of_place, 256)
    meshes = {"textured.glb": unwrapped, "coloured.glb": coloured, "a textured.obj": unwrapped}
    for name, mesh in meshes.items():
        for file, content in to_files(mesh, tmp_path / name).items():
            file.write_bytes(content)
    subprocess.run([blender_python(), "-c", LOOK, *(str(tmp_path / name) for name in meshes)], check=True)
    right, up = np.meshgrid((np.arange(64) + 0.5) / 64 * 1.2 - 0.6, 0.6 - (np.arange(64) + 0.5) / 64 * 1.2)
    inside = np.hypot(right, up) < 0.35
    towards = np.sqrt(0.25 - right[inside] ** 2 - up[inside] ** 2)  # +x of the world, whose right is +y
    expected = colour_of_place(np.stack([towards, right[inside], up[inside]], axis=1)).astype(int)
    for name in meshes:
        seen = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)[inside]
        assert np.abs(seen - expected).mean() < 12, f"{name}: up to its gloss and the white light, {seen[0]}"
