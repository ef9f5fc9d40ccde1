import math

import pytest
import torch

from vfusion3d import cameras


def test_azimuth_0_is_plus_x_and_grows_towards_plus_y():
    orbit = cameras.orbit_cameras(4, 0.0)
    expected = torch.tensor([[1.5, 0, 0], [0, 1.5, 0], [-1.5, 0, 0], [0, -1.5, 0]])
    assert torch.allclose(orbit[:, :, 3], expected, atol=1e-6)


def test_cameras_look_along_minus_z_at_the_origin_with_the_world_upright():
    camera = cameras.orbit_cameras(5, 0.6)
    rotation, position = camera[..., :3], camera[..., 3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(5), atol=1e-6)
    assert torch.allclose(-rotation[..., 2] * 1.5, -position, atol=1e-6)
    assert (rotation[:, 2, 1] > 0).all()
    assert torch.allclose(rotation[:, 2, 0], torch.zeros(5), atol=1e-6)


def test_where_a_camera_stands_is_read_back():
    azimuth, elevation = torch.tensor([0.3, -2.0]), torch.tensor([0.5, 0.1])
    camera = cameras.look_at_origin(cameras.sphere_position(azimuth, elevation, 1.7))
    got = cameras.azimuth_elevation_distance(camera)
    for value, wanted in zip(got, (azimuth, elevation, torch.tensor([1.7, 1.7])), strict=True):
        assert torch.allclose(value, wanted, atol=1e-6)


def test_a_vertical_view_direction_is_refused():
    with pytest.raises(ValueError, match="up"):
        cameras.orbit_cameras(3, math.pi / 2)


def test_from_azimuth_0_image_right_is_world_y_and_image_up_is_world_z():
    points = torch.tensor([[[0, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]])
    uv, depth = cameras.project(points, cameras.orbit_cameras(1, 0.0), cameras.default_intrinsics(1))
    assert torch.allclose(uv[0], torch.tensor([[0.5, 0.5], [0.75, 0.5], [0.5, 0.25]]), atol=1e-6)
    assert torch.allclose(depth, torch.full((1, 3), 1.5), atol=1e-6)


def test_a_ray_passes_through_the_points_that_project_to_its_pixel():
    generator = torch.Generator().manual_seed(0)
    camera = cameras.offset_cameras(cameras.orbit_cameras(6, 0.4), generator)
    intrinsics = torch.tensor([0.8, 0.7, 0.45, 0.55]).expand(6, 4)
    points = torch.rand(6, 20, 3, generator=generator) - 0.5
    uv, _ = cameras.project(points, camera, intrinsics)
    origins, directions = cameras.rays_through(uv, camera, intrinsics)
    offset = torch.linalg.cross(points - origins, directions).norm(dim=-1)
    assert offset.max() < 1e-5


def test_turning_to_the_input_puts_it_at_azimuth_0_and_keeps_the_rest_relative():
    orbit = cameras.orbit_cameras(8, 0.3)[None]
    turned = cameras.turn_to_input(orbit, orbit[:, 3])
    azimuth, elevation, distance = cameras.azimuth_elevation_distance(turned[0])
    assert azimuth[3].abs() < 1e-6
    assert azimuth[4].item() == pytest.approx(2 * math.pi / 8, abs=1e-5)
    assert torch.allclose(elevation, torch.full((8,), 0.3), atol=1e-5)
    assert torch.allclose(distance, torch.full((8,), 1.5), atol=1e-5)
    assert torch.allclose(turned[0, 3], cameras.orbit_cameras(1, 0.3)[0], atol=1e-6)


@pytest.mark.parametrize("amount", [0.02, 0.05])
def test_noise_is_uniform_within_its_bounds_and_comes_from_the_generator(amount):
    orbit, intrinsics = cameras.orbit_cameras(4000, 0.3), cameras.default_intrinsics(4000)
    noisy, lens = cameras.add_camera_noise(orbit, intrinsics, torch.Generator().manual_seed(1), amount)
    again, _ = cameras.add_camera_noise(orbit, intrinsics, torch.Generator().manual_seed(1), amount)
    shifted = cameras.offset_cameras(orbit, torch.Generator().manual_seed(1), amount)
    assert torch.equal(noisy, again)
    assert torch.equal(shifted[..., :3], orbit[..., :3])
    for noise in (noisy - orbit, lens - intrinsics, (shifted - orbit)[..., 3]):
        assert noise.abs().max() <= amount + 1e-6
        assert abs(noise.mean().item()) < 0.05 * amount
        assert noise.std().item() == pytest.approx(amount / math.sqrt(3), rel=0.03)


def test_the_camera_condition_is_the_matrix_row_by_row_then_the_lens():
    camera = torch.arange(12.0).view(1, 3, 4)
    vector = cameras.camera_vector(camera, torch.tensor([[20.0, 21, 22, 23]]))
    assert vector[0].tolist() == [*range(12), 20, 21, 22, 23]
