import math

import pytest
import slow_renderer
import torch
from fields import ball_field

from vfusion3d.cameras import default_intrinsics, look_at_origin, orbit_cameras, sphere_position
from vfusion3d.model import rendering
from vfusion3d.model.rendering import (
    Field,
    ball_interval,
    corners,
    cube_interval,
    importance_samples,
    ray_weights,
    render,
    render_rays,
)


def random_field(channels=6, resolution=12, seed=0):
    torch.manual_seed(seed)
    return Field(channels), torch.randn(2, 3, channels, resolution, resolution)


def test_lookup_equals_grid_sample_and_the_whole_first_layer_inside_and_outside():
    field, planes = random_field()
    points = torch.rand(2, 400, 3) * 2.6 - 1.3
    rgb, raw = field(planes, points)
    for i in range(2):
        slow_rgb, slow_raw = slow_renderer.field(field.net, planes[i : i + 1], points[i])
        assert torch.allclose(rgb[i], slow_rgb, atol=1e-5)
        assert torch.allclose(raw[i, :, 0], slow_raw, atol=1e-5)


def test_lookup_in_chunks_changes_nothing(monkeypatch):
    field, planes = random_field()
    points = torch.rand(2, 500, 3) * 2 - 1
    whole = field(planes, points)
    monkeypatch.setattr(rendering, "POINTS_AT_ONCE", 64)
    with torch.no_grad():
        parts = field(planes, points)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))


def test_gradients_equal_those_of_the_slow_twin():
    field, planes = random_field()
    points = torch.rand(300, 3) * 2.2 - 1.1
    target = torch.randn(300, 3)
    gradients = []
    for fast in (True, False):
        leaf = planes[:1].clone().requires_grad_()
        field.zero_grad()
        if fast:
            rgb, raw = field(leaf, points[None])
            rgb, raw = rgb[0], raw[0, :, 0]
        else:
            rgb, raw = slow_renderer.field(field.net, leaf, points)
        ((rgb * target).sum() + raw.sum()).backward()
        gradients.append([leaf.grad, *(p.grad.clone() for p in field.parameters())])
    for fast, slow in zip(*gradients, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-4)


def test_corner_weights_sum_to_one_on_each_plane_well_inside():
    _, weights = corners(torch.rand(100, 3) * 1.6 - 0.8, torch.zeros(100, dtype=torch.long), 16)
    assert torch.allclose(weights.view(100, 3, 4).sum(-1), torch.ones(100, 3), atol=1e-6)


@pytest.mark.parametrize("size", [9, 24])
def test_a_view_equals_the_slow_twin_when_nothing_is_skipped(size):
    field, planes = ball_field()
    camera = look_at_origin(sphere_position(torch.tensor([0.7]), 0.4))
    intrinsics = torch.tensor([[0.75, 0.8, 0.47, 0.52]])
    with torch.no_grad():
        fast = render(field, planes, camera[None], intrinsics[None], size, samples=32, skip_empty=False)
        rgb, opacity = slow_renderer.render(field.net, planes, camera[0], intrinsics[0], size, samples=32)
    assert 0.05 < opacity.mean() < 0.6
    assert torch.allclose(fast.rgb[0, 0], rgb, atol=1e-4)
    assert torch.allclose(fast.opacity[0, 0], opacity, atol=1e-4)


def test_skipping_empty_space_keeps_45_db():
    field, planes = ball_field(channels=16, resolution=64)
    camera, intrinsics = orbit_cameras(1, 0.3), default_intrinsics(1)
    with torch.no_grad():
        fast = render(field, planes, camera[None], intrinsics[None], 48, samples=64)
        rgb, _ = slow_renderer.render(field.net, planes, camera[0], intrinsics[0], 48, samples=64)
    mse = (fast.rgb[0, 0] - rgb).square().mean().item()
    assert mse > 0, "nothing was skipped, so this shows nothing"
    assert -10 * math.log10(mse) > 45


def test_a_ball_has_the_silhouette_and_the_depth_that_geometry_gives():
    radius, size = 0.5, 64
    field, planes = ball_field(resolution=64, radius=radius, steepness=4000.0)
    with torch.no_grad():
        view = render(field, planes, orbit_cameras(1, 0.0)[None], default_intrinsics(1, 1), size, samples=128)
    inside = view.opacity[0, 0, 0] > 0.5
    # a ball of radius r seen from distance d: a disc of radius f r / sqrt(d^2 - r^2) on the image plane
    expected = math.pi * (0.75 * radius / math.sqrt(1.5**2 - radius**2) * size) ** 2
    assert abs(inside.sum().item() / expected - 1) < 0.04
    middle = view.depth[0, 0, 0, size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1].mean().item()
    assert abs(middle - (1.5 - radius)) < 0.03


def test_rays_that_miss_the_cube_show_the_white_background():
    field, planes = random_field()
    away = torch.tensor([[[1.0, 0, 0, 5.0], [0, 0, -1.0, 0], [0, 1.0, 0, 0]]])  # looks along +y, past the cube
    with torch.no_grad():
        view = render(field, planes[:1], away[None], default_intrinsics(1, 1), 8, samples=8)
    assert view.rgb.min() == 1
    assert view.opacity.max() == 0
    assert view.depth.max() == 0


def test_views_are_the_same_every_time_without_a_generator_and_vary_with_one():
    field, planes = random_field()
    cameras, intrinsics = orbit_cameras(2, 0.2)[None], default_intrinsics(1, 2)
    with torch.no_grad():
        still = [render(field, planes[:1], cameras, intrinsics, 8, samples=16).rgb for _ in range(2)]
        generator = torch.Generator().manual_seed(0)
        random = [
            render(field, planes[:1], cameras, intrinsics, 8, samples=16, generator=generator).rgb for _ in range(2)
        ]
    assert torch.equal(*still)
    assert not torch.equal(*random)


def test_training_and_inference_render_the_same_picture():
    field, planes = random_field()
    cameras, intrinsics = orbit_cameras(2, 0.2).expand(2, 2, 3, 4), default_intrinsics(2, 2)
    learning = render(field, planes, cameras, intrinsics, 10, samples=16)
    with torch.no_grad():
        still = render(field, planes, cameras, intrinsics, 10, samples=16)
    assert learning.rgb.requires_grad
    assert torch.allclose(learning.rgb, still.rgb, atol=1e-5)


def test_weights_follow_the_closed_form_of_a_constant_density():
    t = torch.linspace(0, 2, 101)[None]
    raw = torch.full_like(t, 1.5)
    density = math.log1p(math.exp(0.5))
    assert ray_weights(t, raw).sum().item() == pytest.approx(1 - math.exp(-2 * density), abs=1e-5)


def test_fine_samples_gather_where_the_coarse_weights_are():
    t = torch.linspace(0, 1, 33)[None]
    weights = torch.zeros(1, 32)
    weights[0, 20] = 1.0
    fine = importance_samples(t, weights, 64, None)
    assert ((fine > t[0, 18]) & (fine < t[0, 23])).float().mean() > 0.8


def test_the_cube_is_entered_and_left_where_geometry_says():
    near, far = cube_interval(torch.tensor([[3.0, 0, 0], [0, 0, 0.5]]), torch.tensor([[-1.0, 0, 0], [0, 1.0, 0]]))
    assert near.tolist() == [2, 0]
    assert far.tolist() == [4, 1]


def test_the_ball_is_entered_and_left_where_geometry_says():
    origins = torch.tensor([[3.0, 0, 0], [3.0, 0.3, 0], [0, 0, 0.1], [3.0, 0.6, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0], [-1.0, 0, 0]])
    near, far = ball_interval(origins, directions, 0.5)
    assert near.tolist() == pytest.approx([2.5, 2.6, 0, 3.0], abs=1e-6)
    assert far.tolist() == pytest.approx([3.5, 3.4, 0.4, 3.0], abs=1e-6)  # the last one misses it


def test_fog_that_fills_a_ball_is_as_thick_as_each_rays_chord():
    field, planes = random_field()
    density = math.log1p(math.exp(0.5))
    with torch.no_grad():
        field.net[-1].weight.zero_()
        field.net[-1].bias[0] = 1.5
    beside = torch.linspace(0, 0.99, 40)
    origins = torch.stack([torch.full_like(beside, 2.0), beside, torch.zeros_like(beside)], dim=-1)
    directions = torch.tensor([-1.0, 0, 0]).expand_as(origins)
    _, opacity, _ = render_rays(field, planes[:1], origins[None], directions[None], samples=64, radius=0.6)
    chord = 2 * (0.6**2 - beside.square()).clamp(min=0).sqrt()
    assert torch.allclose(opacity[0, :, 0], 1 - torch.exp(-density * chord), atol=0.03)
    assert opacity[0, beside > 0.6].max() == 0


def test_a_ball_around_all_there_is_changes_the_picture_by_sampling_alone():
    field, planes = ball_field(channels=16, resolution=64, radius=0.5)
    view = orbit_cameras(1, 0.3)[None], default_intrinsics(1, 1), 48
    with torch.no_grad():
        whole, within = (render(field, planes, *view, samples=128, radius=radius).rgb for radius in (None, 0.75))
    assert -10 * math.log10((whole - within).square().mean().item()) > 35


@pytest.mark.parametrize("samples", [4, 6, 15])
def test_an_odd_number_of_samples_or_fewer_than_8_is_refused(samples):
    field, planes = random_field()
    with pytest.raises(ValueError, match="even number from 8 up"):
        render(field, planes[:1], orbit_cameras(1, 0.2)[None], default_intrinsics(1, 1), 8, samples=samples)
