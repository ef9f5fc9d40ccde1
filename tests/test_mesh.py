import numpy as np
import pytest
import slow_renderer
import torch
import trimesh
from fields import ball_field
from skimage.measure import marching_cubes
from tiny_model import tiny_model

from vfusion3d.cameras import default_intrinsics, orbit_cameras
from vfusion3d.model.mesh import NoSurfaceError, colours_at, extract_mesh, finish, outline_threshold
from vfusion3d.model.rendering import render


def dense_surface(field, planes, resolution, threshold=1.0):
    with torch.no_grad():
        density = slow_renderer.density_grid(field.net, planes, resolution).numpy()
    vertices, faces, _, _ = marching_cubes(density, threshold)
    return trimesh.Trimesh(vertices * 2 / (resolution - 1) - 1, faces, process=False)


@pytest.mark.parametrize("resolution", [48, 61])
def test_coarse_to_fine_finds_the_surface_of_the_dense_grid(resolution):
    field, planes = ball_field(resolution=32)
    mesh, dense = extract_mesh(field, planes, resolution), dense_surface(field, planes, resolution)
    voxel = 2 / (resolution - 1)
    assert len(mesh.vertices) == len(dense.vertices)
    for one, other in ((mesh, dense), (dense, mesh)):
        distance, _ = trimesh.proximity.ProximityQuery(one).vertex(other.vertices)
        assert distance.max() < voxel


@pytest.mark.parametrize(("resolution", "radius", "off"), [(64, 0.05, 0.08), (64, 0.06, 0.0), (128, 0.05, 0.047)])
def test_a_thin_rod_is_not_lost_between_coarse_points(resolution, radius, off):
    field, planes = ball_field(resolution=64, steepness=2e4)
    ticks = (torch.arange(64) + 0.5) / 32 - 1
    planes[:, 0, 0] = radius**2 - (ticks[None, :] - off) ** 2 - (ticks[:, None] - off) ** 2  # a rod along z
    planes[:, 1, 0] = 0
    mesh, dense = extract_mesh(field, planes, resolution), dense_surface(field, planes, resolution)
    assert np.allclose(mesh.bounds, dense.bounds, atol=2 / (resolution - 1))
    assert mesh.area == pytest.approx(dense.area, rel=0.01)


def test_the_mesh_is_a_ball_of_the_right_radius_with_outward_normals_and_the_fields_colours():
    field, planes = ball_field(resolution=64, radius=0.5, steepness=4000.0)
    mesh = extract_mesh(field, planes, 96)
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert abs(radii.mean() - 0.5) < 0.01
    assert mesh.is_watertight
    assert mesh.volume > 0
    with torch.no_grad():
        rgb, _ = slow_renderer.field(field.net, planes, torch.tensor(mesh.vertices, dtype=torch.float32))
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255.0 - rgb.clamp(0, 1).numpy()).max() < 0.01


def test_a_field_without_a_surface_is_an_error_that_says_so():
    field, planes = ball_field()
    planes[:, 0, 0] = -5
    with pytest.raises(NoSurfaceError, match="never crosses"):
        extract_mesh(field, planes, 32)


def test_a_tiny_grid_is_refused():
    field, planes = ball_field()
    with pytest.raises(ValueError, match="at least 8"):
        extract_mesh(field, planes, 4)


def test_what_reaches_the_end_of_the_cube_is_closed_there():
    field, planes = ball_field(radius=1.2)
    assert not extract_mesh(field, planes, 32).is_watertight
    mesh = extract_mesh(field, planes, 32, closed=True)
    assert mesh.is_watertight
    assert np.allclose(mesh.bounds, [[-1] * 3, [1] * 3])
    assert 0 < mesh.volume < 8


@pytest.mark.parametrize(("steepness", "radius"), [(20.0, 0.5), (60.0, 0.4)])
def test_the_threshold_of_the_outline_gives_a_mesh_that_covers_the_pixels_that_are_half_opaque(steepness, radius):
    field, planes = ball_field(radius=radius, steepness=steepness, raw_empty=-2.0)
    cameras = orbit_cameras(1, 0.3, distance=1.5)
    threshold = outline_threshold(field, planes, cameras)
    reach = np.linalg.norm(extract_mesh(field, planes, 40, threshold).vertices, axis=1).mean()
    with torch.no_grad():
        opacity = render(field, planes, cameras[None], default_intrinsics(1)[None], 64, samples=64).opacity
    covered = (opacity > 0.5).float().mean().item()
    cone = np.pi * (reach / np.sqrt(1.5**2 - reach**2) * 0.75) ** 2  # of the picture, whose side is 1
    assert covered == pytest.approx(cone, rel=0.06)
    other = np.linalg.norm(extract_mesh(field, planes, 40, 0.5).vertices, axis=1).mean()
    assert other > 1.03 * reach, "another threshold would show"


def test_a_field_that_is_nowhere_half_opaque_gets_the_faintest_threshold():
    field, planes = ball_field(raw_empty=-2.0, steepness=8.0, radius=0.3)
    assert outline_threshold(field, planes, orbit_cameras(2, 0.3)) == 1.0


# ------------------------------------------------------------------------------------------------ a mesh to take away


def two_balls() -> trimesh.Trimesh:
    other = trimesh.creation.icosphere(3, 0.1)
    return trimesh.util.concatenate([other.apply_translation([0.7, 0, 0]), trimesh.creation.icosphere(5, 0.5)])


def joined(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """As a program has it that joins vertices in one place, from a file of 32-bit numbers."""
    return trimesh.Trimesh(np.float32(mesh.vertices), mesh.faces, process=True)


def test_the_largest_body_stays_within_the_budget_of_faces_and_does_not_shrink():
    mesh = finish(two_balls(), faces=1000)
    assert 900 < len(mesh.faces) <= 1000
    assert joined(mesh).is_watertight
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.01)
    assert mesh.metadata["left_out"] == pytest.approx(0.1**2 / (0.5**2 + 0.1**2), rel=0.01)
    everything = finish(two_balls(), faces=None, keep_all=True)
    assert everything.body_count == 2
    assert len(everything.faces) == len(two_balls().faces)


def test_smoothing_takes_the_roughness_and_leaves_the_size():
    rough = trimesh.creation.icosphere(4, 0.5)
    rough.vertices *= 1 + np.random.default_rng(0).normal(scale=0.01, size=(len(rough.vertices), 1))
    smooth = finish(rough, faces=None)
    assert smooth.volume == pytest.approx(rough.volume, rel=0.005)
    spread = [np.linalg.norm(mesh.vertices, axis=1).std() for mesh in (rough, smooth)]
    assert spread[1] < 0.6 * spread[0]


@pytest.mark.parametrize("seed", [1, 4])
def test_a_sponge_of_thin_parts_is_closed_whatever_the_budget(seed):
    model = tiny_model(seed)
    with torch.no_grad():
        sponge = model.extract_mesh(model(torch.ones(1, 3, 64, 64), torch.zeros(1, 16)), 28)
    assert sponge.euler_number < -4, "it has handles"
    for faces in (4000, 1500):
        for keep_all in (False, True):
            mesh = finish(sponge, faces, keep_all)
            assert len(mesh.faces) <= faces
            assert joined(mesh).is_watertight
            assert joined(mesh).is_winding_consistent


def test_bodies_that_meet_at_an_edge_are_told_apart():
    """Two tetrahedra on one edge, of which four faces meet there; decimation leaves such edges."""
    points = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [-1, 0, 0], [-1, -1, 0]]) * 0.4
    four = [(0, 1, 2), (1, 0, 3), (2, 3, 0), (3, 2, 1)]
    mesh = trimesh.Trimesh(points, four + [tuple({2: 4, 3: 5}.get(v, v) for v in face) for face in four], process=False)
    assert not mesh.is_watertight
    closed = finish(mesh, faces=None, keep_all=True)
    assert joined(closed).is_watertight


def test_colours_at_places_are_the_fields():
    field, planes = ball_field()
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (50, 3))
    with torch.no_grad():
        rgb, _ = slow_renderer.field(field.net, planes, torch.tensor(points, dtype=torch.float32))
    assert np.abs(colours_at(field, planes, points) / 255.0 - rgb.clamp(0, 1).numpy()).max() < 0.005
