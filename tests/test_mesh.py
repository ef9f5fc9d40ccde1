import numpy as np
import pytest
import slow_renderer
import torch
import trimesh
from fields import ball_field
from skimage.measure import marching_cubes

from vfusion3d.model.mesh import NoSurfaceError, extract_mesh


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
