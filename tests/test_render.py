"""The renderer against closed forms: where points land, how far surfaces are, which way they face, their colours."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from vfusion3d import cameras
from vfusion3d.data.render import render_views
from vfusion3d.data.surfaces import DEFAULT_COLOUR, shade, surfaces_of

pytest.importorskip("pyvista")

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
ODD_INTRINSICS = torch.tensor([0.9, 0.7, 0.4, 0.62])  # off-centre, fx != fy


def coloured(mesh: trimesh.Trimesh, colour) -> trimesh.Trimesh:
    mesh.visual.vertex_colors = np.tile(np.uint8([*colour, 255]), (len(mesh.vertices), 1))
    return mesh


def noisy_orbit(views: int, elevation: float = 0.4) -> torch.Tensor:
    orbit = cameras.orbit_cameras(views, elevation)
    return cameras.offset_cameras(orbit, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [64, 257])
def test_known_points_land_on_the_pixel_that_cameras_project_says(size):
    points = torch.tensor([[0.3, 0.2, 0.4], [-0.4, 0.1, -0.2], [0.1, -0.5, 0.3], [0.0, 0.0, 0.0]])
    cam2world = noisy_orbit(6)
    intrinsics = ODD_INTRINSICS.expand(6, 4)
    for point in points:
        ball = trimesh.creation.icosphere(subdivisions=3, radius=0.04)
        ball.apply_translation(point.numpy())
        picture = render_views(coloured(ball, (255, 0, 0)), cam2world, intrinsics, size, supersampling=5).rgba
        uv, _ = cameras.project(point[None], cam2world, intrinsics)
        for view in range(6):
            weight = picture[view, ..., 3].astype(float)
            rows, columns = np.indices(weight.shape)
            centre = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum() + 0.5
            assert np.abs(centre - uv[view, 0].numpy() * size).max() < 0.1 + 0.001 * size


def test_a_sphere_has_the_depth_and_normals_of_the_closed_form():
    radius, size = 0.5, 96
    ball = trimesh.creation.icosphere(subdivisions=6, radius=radius)
    cam2world, intrinsics = noisy_orbit(3), ODD_INTRINSICS.expand(3, 4)
    views = render_views(ball, cam2world, intrinsics, size, depth=True, normals=True)
    origins, directions = cameras.rays_through(cameras.pixel_centres(size).expand(3, -1, 2), cam2world, intrinsics)
    along = (origins * directions).sum(-1)
    inside = along**2 - (origins**2).sum(-1) + radius**2
    distance = -along - inside.clamp(min=0).sqrt()
    hit = origins + distance[..., None] * directions
    depth = -((hit - cam2world[:, None, :, 3]) * cam2world[:, None, :, 2]).sum(-1)
    surely = (inside > 0.02).reshape(3, size, size).numpy()
    surely_not = (inside < -0.002).reshape(3, size, size).numpy()
    assert surely.sum() > 3000
    assert np.abs(views.depth - depth.reshape(3, size, size).numpy())[surely].max() < 1e-3
    assert np.isinf(views.depth[surely_not]).all()
    normal = (hit / radius).reshape(3, size, size, 3).numpy()
    assert np.abs(views.normals - normal)[surely].max() < 0.015
    assert (views.normals[surely_not] == 0).all()
    assert (views.rgba[(inside < -0.05).reshape(3, size, size).numpy()] == 0).all()


def test_depth_is_right_for_a_camera_close_to_and_far_from_a_plane():
    plane = trimesh.creation.box(extents=[0.002, 4, 4])
    for distance in (0.1, 1.5, 50.0):
        camera = cameras.orbit_cameras(1, 0.0, distance)
        depth = render_views(plane, camera, cameras.INTRINSICS, 15, depth=True).depth
        assert depth[0, 7, 7] == pytest.approx(distance - 0.001, rel=1e-4)


def test_a_pixel_is_colour_times_shade_and_the_shade_does_not_depend_on_the_view():
    box = coloured(trimesh.creation.box(extents=[0.8, 0.8, 0.8]), (200, 120, 40))
    for azimuth, normal in ((0.0, (1, 0, 0)), (math.pi / 2, (0, 1, 0)), (math.pi, (-1, 0, 0))):
        expected = np.array([200, 120, 40]) * shade(np.array(normal, float))
        for elevation in (0.0, 0.3):
            camera = cameras.orbit_cameras(1, elevation, azimuth=azimuth)
            picture = render_views(box, camera, cameras.INTRINSICS, 33).rgba[0]
            assert np.abs(picture[17, 16, :3] - expected).max() <= 1
            assert picture[17, 16, 3] == 255


def test_a_box_shades_flat_and_a_sphere_smooth():
    (box,) = surfaces_of(trimesh.creation.box())
    assert len(box.points) == 24
    assert np.allclose(np.abs(box.normals).max(-1), 1)
    ball = trimesh.creation.icosphere(subdivisions=3)
    (smooth,) = surfaces_of(ball)
    assert len(smooth.points) == len(ball.vertices)
    assert ((smooth.normals * smooth.points).sum(-1) > 0.999).all()


def test_normals_do_not_break_where_vertices_are_doubled_as_along_a_texture_seam():
    ball = trimesh.creation.icosphere(subdivisions=3)
    ball.unmerge_vertices()
    (surface,) = surfaces_of(ball)
    assert ((surface.normals * surface.points).sum(-1) > 0.999).all()


def test_a_cylinder_shades_the_same_whichever_diagonal_cuts_its_quads():
    (surface,) = surfaces_of(trimesh.creation.cylinder(radius=1, height=1, sections=16))
    side = np.abs(surface.normals[:, 2]) < 0.5
    outwards = surface.points[side] * [1, 1, 0]
    assert np.allclose(surface.normals[side], outwards, atol=1e-6)


def test_silhouettes_are_antialiased_and_keep_the_colour_of_the_object():
    ball = coloured(trimesh.creation.icosphere(subdivisions=4, radius=0.6), (250, 240, 10))
    picture = render_views(ball, noisy_orbit(4), cameras.INTRINSICS, 64, shading=False).rgba
    alpha = picture[..., 3]
    edge = (alpha > 0) & (alpha < 255)
    assert edge.sum() > 200
    assert len(np.unique(alpha)) >= 8
    assert (picture[alpha > 0][:, :3] == [250, 240, 10]).all()


def test_alpha_is_the_covered_share_of_the_pixel():
    box = trimesh.creation.box(extents=[0.001, 0.5, 0.5])
    picture = render_views(box, cameras.orbit_cameras(1, 0.0, 1.5), cameras.INTRINSICS, 50, supersampling=15).rgba[0]
    side = 0.5 * 0.75 / (1.5 - 0.0005) * 50
    assert (picture[..., 3] / 255).sum() == pytest.approx(side**2, rel=0.01)


@pytest.mark.parametrize("kind", ["quadrants", "photo"])
def test_a_textured_quad_shows_its_texture_the_right_way_round(kind):
    size = 64
    if kind == "quadrants":
        texture = np.zeros((2, 2, 3), np.uint8)
        texture[0, 0], texture[0, 1], texture[1, 0], texture[1, 1] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 60, 30)
        texture = texture.repeat(32, 0).repeat(32, 1)
    else:
        smooth = np.random.default_rng(0).uniform(0, 255, (4, 4, 3))
        texture = np.uint8(smooth.repeat(16, 0).repeat(16, 1))
    # Fills the view of a camera on the x axis: right is +y, up is +z.
    corners = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], float)
    quad = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    from PIL import Image

    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texture))
    quad.visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
    camera = cameras.orbit_cameras(1, 0.0, 1.5)
    picture = render_views(quad, camera, cameras.INTRINSICS, size, shading=False).rgba[0]
    inner = np.kron(np.ones((4, 4), bool), np.pad(np.ones((12, 12), bool), 2))  # away from the texture's own edges
    assert np.abs(picture[..., :3].astype(int) - texture)[inner].max() <= 1
    assert (picture[..., 3] == 255).all()


def test_face_colours_stay_on_their_faces_and_no_material_is_light_grey():
    box = trimesh.creation.box(extents=[0.8, 0.8, 0.8])
    box.visual.face_colors = np.where(np.abs(box.face_normals[:, :1]) > 0.5, [[255, 0, 0, 255]], [[0, 0, 255, 255]])
    front = render_views(box, cameras.orbit_cameras(1, 0.0), cameras.INTRINSICS, 32, shading=False).rgba[0]
    assert (front[front[..., 3] > 0][:, :3] == [255, 0, 0]).all()
    plain = trimesh.creation.box(extents=[0.8, 0.8, 0.8])
    front = render_views(plain, cameras.orbit_cameras(1, 0.0), cameras.INTRINSICS, 32, shading=False).rgba[0]
    assert (front[front[..., 3] > 0][:, :3] == DEFAULT_COLOUR).all()


def test_a_nearer_part_of_a_scene_hides_a_farther_one_and_transforms_count():
    red, blue = (coloured(trimesh.creation.box(extents=[0.2] * 3), c) for c in ((255, 0, 0), (0, 0, 255)))
    scene = trimesh.Scene()
    scene.add_geometry(red, transform=trimesh.transformations.translation_matrix([0.3, 0, 0]))
    scene.add_geometry(blue, transform=trimesh.transformations.translation_matrix([-0.3, 0, 0]))
    views = render_views(scene, cameras.orbit_cameras(2, 0.0), cameras.INTRINSICS, 33, shading=False)
    assert (views.rgba[0, 16, 16] == [255, 0, 0, 255]).all()
    assert (views.rgba[1, 16, 16] == [0, 0, 255, 255]).all()


def test_many_views_drawn_in_several_goes_equal_single_ones():
    box = coloured(trimesh.creation.box(extents=[0.4, 0.6, 0.8]), (10, 200, 100))
    orbit = noisy_orbit(5)
    together = render_views(box, orbit, cameras.INTRINSICS, 700, depth=True)  # a window holds one such view
    for view in (0, 4):
        alone = render_views(box, orbit[view : view + 1], cameras.INTRINSICS, 700, depth=True)
        assert (together.rgba[view] == alone.rgba[0]).all()
        assert (together.depth[view] == alone.depth[0]).all()


def test_nothing_of_an_object_or_of_another_size_is_left_in_the_next_picture():
    ball, box = trimesh.creation.icosphere(radius=0.3), trimesh.creation.box(extents=[1, 0.1, 0.1])
    orbit = noisy_orbit(7)
    before = render_views(ball, orbit, cameras.INTRINSICS, 40).rgba
    render_views(box, noisy_orbit(12), cameras.INTRINSICS, 64, normals=True)
    assert (render_views(ball, orbit, cameras.INTRINSICS, 40).rgba == before).all()


def test_memory_stays_flat_over_a_thousand_objects():
    resource = pytest.importorskip("resource")  # POSIX

    def resident():
        statm = Path("/proc/self/statm")
        if not statm.exists():
            pytest.skip("needs /proc")
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20

    from PIL import Image

    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (64, 64)))
    ball = trimesh.creation.uv_sphere(radius=0.5)
    ball.visual = trimesh.visual.TextureVisuals(uv=ball.vertices[:, :2], material=material)
    camera = noisy_orbit(2)
    for _ in range(100):
        render_views(ball, camera, cameras.INTRINSICS, 16)
    start = resident()
    for _ in range(1000):
        render_views(ball, camera, cameras.INTRINSICS, 16)
    assert resident() - start < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"supersampling": 2}, "odd"),
        ({"backend": "povray"}, "povray"),
        ({"cam2world": np.eye(4)}, "cam2world must be"),
        ({"cam2world": np.full((1, 3, 4), np.nan)}, "finite"),
        ({"intrinsics": np.ones((3, 4))}, "intrinsics must be"),
        ({"mesh": trimesh.Trimesh()}, "no faces"),
        ({"mesh": trimesh.Trimesh([[np.nan] * 3] * 3, [[0, 1, 2]], process=False)}, "NaN"),
    ],
)
def test_wrong_arguments_are_errors_that_say_what_is_wrong(change, message):
    arguments = {
        "mesh": trimesh.creation.box(),
        "cam2world": cameras.orbit_cameras(1, 0.0),
        "intrinsics": cameras.INTRINSICS,
        "size": 8,
    }
    with pytest.raises(ValueError, match=message):
        render_views(**{**arguments, **change})


@pytest.mark.skipif(not ASSETS.exists(), reason="needs ../shared/assets")
def test_pixels_of_the_textured_box_have_the_colours_of_its_texture():
    from vfusion3d.data.mesh_files import load_mesh

    box = load_mesh(ASSETS / "BoxTextured.glb")
    texture = np.asarray(box.visual.material.baseColorTexture.convert("RGB"))
    camera = cameras.orbit_cameras(1, 0.7, azimuth=0.7)
    size, points, expected = 512, [], []
    for face in box.faces:  # of every triangle facing the camera, the colour at some inner points
        for weights in ([0.34, 0.33, 0.33], [0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [0.2, 0.6, 0.2]):
            corners = box.vertices[face]
            normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
            point = np.array(weights) @ corners
            if normal @ (camera[0, :, 3].numpy() - point) > 0:
                u, v = np.array(weights) @ box.visual.uv[face] % 1
                row, column = int((1 - v) * texture.shape[0]), int(u * texture.shape[1])
                patch = texture[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7]
                if np.ptp(patch, axis=(0, 1)).max() <= 4:  # where the texture is flat
                    points.append(point)
                    expected.append(texture[row, column])
    assert len(points) >= 8
    picture = render_views(box, camera, cameras.INTRINSICS, size, shading=False).rgba[0]
    uv, _ = cameras.project(
        torch.tensor(np.array(points), dtype=torch.float32), camera[0], torch.tensor(cameras.INTRINSICS)
    )
    for (u, v), colour in zip(uv.tolist(), expected, strict=True):
        pixel = picture[int(v * size), int(u * size)]
        assert np.abs(pixel[:3].astype(int) - colour).max() <= 5
