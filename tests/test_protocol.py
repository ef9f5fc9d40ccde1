"""The 3D protocol and its baselines, on an object whose every view has a closed form.

The "beacon" is a disc whose colour tells from where it is seen: red is the cosine and green the sine of the camera's
azimuth in the object's own frame. A method that reads the input's colour knows how far the object was turned, and so
can paint every other view, but only if the cameras it is given were turned to the input view as they should be.
"""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from vfusion3d import cameras
from vfusion3d.data.shards import MultiviewSample, MultiviewShards, ShardWriter, encode_sample, shard_path, write_index
from vfusion3d.evaluation.baselines import build_index, repeat_input, retrieval, white
from vfusion3d.evaluation.protocol import azimuths_away, evaluate_3d, model_predictor, novel_views
from vfusion3d.model.vfusion3d import VFusion3D

SIZE = 64


def disc(size: int = SIZE) -> torch.Tensor:
    ticks = torch.arange(size) - (size - 1) / 2
    return ticks[:, None].square() + ticks.square() < (0.3 * size) ** 2


def beacon(azimuth: torch.Tensor, blue: float, size: int = SIZE) -> torch.Tensor:
    """Views (V, 3, size, size) in [0, 1] on white from the given azimuths in the object's frame."""
    colour = torch.stack([0.5 + 0.5 * azimuth.cos(), 0.5 + 0.5 * azimuth.sin(), torch.full_like(azimuth, blue)], dim=1)
    return torch.where(disc(size), colour[..., None, None], 1.0)


def sample(key: str, blue: float, views: int = 33, start: float = 0.0, elevation: float = 0.3) -> MultiviewSample:
    cam2world = cameras.orbit_cameras(views, elevation, azimuth=start)
    azimuth = cameras.azimuth_elevation_distance(cam2world)[0]
    rgb = (beacon(azimuth, blue) * 255).round().to(torch.uint8)
    alpha = torch.where(disc(), 255, 0).to(torch.uint8).expand(views, 1, -1, -1)
    rgba = torch.cat([torch.where(alpha > 0, rgb, 77), alpha], dim=1)  # what lies under no alpha must not matter
    metadata = {"category": "beacon"}
    return MultiviewSample(key, rgba, cam2world, cameras.default_intrinsics(views), f"a beacon {blue}", metadata)


def seer(image, input_camera, cam2world, intrinsics, size):
    """The perfect method: reads the object's turn and its blue from the middle of the input view."""
    red, green, blue = image[0, :, image.shape[-2] // 2, image.shape[-1] // 2]
    turn = torch.atan2(green - 0.5, red - 0.5)
    azimuth = cameras.azimuth_elevation_distance(cam2world[0])[0]
    return beacon(azimuth + turn, blue.item(), size)[None]


def mean_distance(a, b):
    return (a - b).abs().mean(dim=(1, 2, 3))


def evaluate(predict, shards, seed=0, **options):
    options = {"size": SIZE, "perceptual": mean_distance, "generator": np.random.default_rng(seed), **options}
    return evaluate_3d(predict, shards, **options)


def middle_colour(images):
    return images[..., images.shape[-2] // 2, images.shape[-1] // 2] - 0.5


def test_a_method_that_is_right_from_every_side_scores_an_ssim_of_one():
    table = evaluate(seer, [sample("a", 0.2, start=1.0), sample("b", 0.8, start=-2.0)])
    assert (table.ssim > 0.999).all()
    assert (table.psnr > 50).all()  # the stored views are rounded to bytes, which SSIM sees too
    assert (table.lpips < 2 / 255).all()


def test_the_same_method_fails_when_the_world_is_not_turned_to_the_input_view():
    def unturned(image, input_camera, cam2world, intrinsics, size):
        return seer(image, input_camera, cameras.turn_world(cam2world, torch.tensor([0.5])), intrinsics, size)

    assert (evaluate(unturned, [sample("a", 0.2, start=1.0)]).psnr < 25).all()


def test_the_truth_itself_differs_by_rounding_only():
    object_ = sample("a", 0.2)

    def oracle(image, input_camera, cam2world, intrinsics, size):
        return torch.from_numpy(_composited(object_.rgba.numpy()[1:]))[None].float()

    row = evaluate(oracle, [object_], input_view=0).iloc[0]
    assert row.psnr > 120
    assert row.lpips == pytest.approx(0, abs=1e-6)
    assert row.ssim == pytest.approx(1.0, abs=1e-4)


def test_a_white_image_scores_what_the_stored_pixels_say_in_closed_form():
    object_ = sample("a", 0.2)
    truth = _composited(object_.rgba.numpy()[1:])
    expected_psnr = np.mean([-10 * np.log10(np.mean((1 - view) ** 2)) for view in truth])
    row = evaluate(white, [object_], input_view=0).iloc[0]
    assert row.psnr == pytest.approx(expected_psnr, abs=1e-3)
    assert row.lpips == pytest.approx(np.mean(1 - truth), abs=1e-5)


def test_repeating_the_input_is_compared_with_the_other_views_only():
    object_ = sample("a", 0.2)
    truth = _composited(object_.rgba.numpy())
    expected = np.mean([np.abs(truth[5] - view).mean() for number, view in enumerate(truth) if number != 5])
    row = evaluate(repeat_input, [object_], input_view=5).iloc[0]
    assert row.lpips == pytest.approx(expected, abs=1e-5)


def test_with_clip_every_view_is_compared_with_the_caption_and_with_the_input_view():
    class Compass:
        """A CLIP that sees the azimuth only: its features are the red and the green of the beacon, at unit length."""

        def image_features(self, images):
            return torch.nn.functional.normalize(middle_colour(images)[:, :2], dim=-1)

        def text_features(self, texts):
            assert texts == ["a beacon 0.2"]
            return torch.tensor([[0.0, -1.0]])

    plain = evaluate(seer, [sample("a", 0.2)], input_view=4)
    row = evaluate(seer, [sample("a", 0.2)], input_view=4, clip=Compass()).iloc[0]
    assert row.clip_image == pytest.approx(-1 / 32, abs=1e-3)  # all 33 cosines around a circle sum to 0
    assert row.clip_text == pytest.approx(math.sin(4 * 2 * math.pi / 33) / 32, abs=1e-3)
    nameless = dataclasses.replace(sample("a", 0.2), caption="")
    assert np.isnan(evaluate(seer, [nameless], input_view=4, clip=Compass()).iloc[0].clip_text)
    assert row.ssim == plain.iloc[0].ssim
    assert "clip_image" not in plain


@pytest.mark.parametrize("input_view", [0, 7, 32])
def test_33_stored_views_leave_the_paper_s_32_and_none_is_the_input(input_view):
    seen = {}

    def watch(image, input_camera, cam2world, intrinsics, size):
        seen.update(camera=input_camera, novel=cam2world, intrinsics=intrinsics)
        return white(image, input_camera, cam2world, intrinsics, size)

    table = evaluate(watch, [sample("a", 0.2, start=0.7)], input_view=input_view)
    azimuth, elevation, distance = cameras.azimuth_elevation_distance(seen["camera"][0])
    assert (azimuth.item(), elevation.item(), distance.item()) == pytest.approx((0, 0.3, 1.5), abs=1e-5)
    novel = cameras.azimuth_elevation_distance(seen["novel"])[0][0]
    expected = torch.arange(1, 33) * (2 * math.pi / 33)
    assert torch.allclose(novel.remainder(2 * math.pi).sort().values, expected, atol=1e-5)
    assert seen["novel"].shape == (1, 32, 3, 4)
    assert seen["intrinsics"].shape == (1, 32, 4)
    assert table.iloc[0][["views", "input_view"]].tolist() == [32, input_view]


@pytest.mark.parametrize(("stored", "views", "compared"), [(33, 32, 32), (32, 32, 31), (16, 32, 15), (33, 8, 8)])
def test_novel_views_are_distinct_and_never_the_input(stored, views, compared):
    for input_view in range(stored):
        novel = novel_views(stored, input_view, views)
        assert len(set(novel)) == len(novel) == compared
        assert input_view not in novel
        assert set(novel) <= set(range(stored))


def test_fewer_novel_views_still_go_all_the_way_around():
    steps = np.array(novel_views(33, 0, 8))
    assert {*np.diff(steps)} <= {3, 4}
    turns = 360 / 33 * np.minimum(steps, 33 - steps)
    assert turns.min() >= 30
    assert steps[0] + steps[-1] == pytest.approx(33, abs=1)  # as far from the input on both sides
    away = np.degrees(azimuths_away(8))
    assert {*np.diff(away).round(6)} == {37.5}
    assert (away[0], away[-1]) == pytest.approx((48.75, 311.25))


def test_the_seed_decides_the_input_views_for_all_methods_alike():
    objects = [sample(str(number), 0.1) for number in range(20)]
    both = evaluate({"white": white, "repeated": repeat_input}, objects, seed=3)
    assert len(both) == 40
    assert both.groupby("key").input_view.nunique().eq(1).all()
    assert both.input_view.nunique() > 5
    assert evaluate(white, objects, seed=3).input_view.tolist() == both.input_view[::2].tolist()
    assert evaluate(white, objects, seed=4).input_view.tolist() != both.input_view[::2].tolist()


def test_views_are_compared_at_a_smaller_size_on_request_but_never_enlarged():
    assert (evaluate(seer, [sample("a", 0.2)], size=32).psnr > 15).all()  # right but for the disc's jagged edge
    with pytest.raises(ValueError, match=r"stored at 64 pixels.*96"):
        evaluate(seer, [sample("a", 0.2)], size=96)


def test_errors_name_the_object_and_the_method():
    def short(image, input_camera, cam2world, intrinsics, size):
        return white(image, input_camera, cam2world[:, 1:], intrinsics, size)

    def broken(image, input_camera, cam2world, intrinsics, size):
        return white(image, input_camera, cam2world, intrinsics, size) * math.nan

    with pytest.raises(ValueError, match=r"short returned.*object mug"):
        evaluate({"short": short}, [sample("mug", 0.2)])
    with pytest.raises(ValueError, match=r"broken returned.*not finite.*mug"):
        evaluate({"broken": broken}, [sample("mug", 0.2)])
    with pytest.raises(ValueError, match="mug has 1 view"):
        evaluate(white, [sample("mug", 0.2, views=1)])
    with pytest.raises(ValueError, match=r"input_view is 40.*mug has the views 0 to 32"):
        evaluate(white, [sample("mug", 0.2)], input_view=40)
    with pytest.raises(ValueError, match="no objects"):
        evaluate(white, [])


def test_retrieval_on_the_training_set_finds_the_object_itself():
    objects = [sample(str(number), blue, start=number) for number, blue in enumerate((0.0, 0.3, 0.6, 1.0))]
    predict = retrieval(build_index(objects, middle_colour), middle_colour)
    table = evaluate(predict, objects)
    assert (table.psnr == math.inf).all()


def test_retrieval_turns_the_training_object_until_it_matches_the_input():
    training = [sample("a", 0.0, views=32, start=0.0), sample("b", 1.0, views=32, start=2.0)]
    step = 2 * math.pi / 32
    unseen = [sample("c", 0.95, views=33, start=1.0), sample("d", 0.05, views=33, start=-1.0)]
    table = evaluate(retrieval(build_index(training, middle_colour), middle_colour), unseen)
    # the match is half a step off at most, the stored view another half, the blue 0.05: all that on the disc alone
    covered = disc().float().mean().item()
    assert (table.lpips < covered * (2 * 0.5 * step + 0.05) / 3 + 0.002).all()
    assert (table.lpips < evaluate(repeat_input, unseen).lpips).all()


def test_a_model_sees_the_input_at_its_own_size_with_the_camera_of_the_turned_world():
    torch.manual_seed(0)
    small = {"encoder_width": 24, "encoder_layers": 1, "encoder_heads": 2, "camera_width": 8, "width": 16, "layers": 1}
    model = VFusion3D(
        image_size=28,
        position_grid=2,
        heads=2,
        triplane_size=4,
        triplane_channels=4,
        samples_per_ray=8,
        source_distance=1.5,
        **small,
    ).eval()
    given = {}
    model.register_forward_pre_hook(lambda _, args: given.update(image=args[0], camera=args[1]))
    row = evaluate(model_predictor(model), [sample("a", 0.2, views=4, start=0.7)], input_view=1, size=32).iloc[0]
    assert given["image"].shape == (1, 3, 28, 28)
    straight = cameras.camera_vector(cameras.orbit_cameras(1, 0.3), cameras.default_intrinsics(1))
    assert torch.allclose(given["camera"], straight, atol=1e-5)
    assert row["views"] == 3
    assert np.isfinite([row.psnr, row.ssim, row.lpips]).all()


def test_an_empty_training_set_cannot_be_retrieved_from():
    with pytest.raises(ValueError, match="render it first"):
        build_index([], middle_colour)


def test_shards_on_disk_give_the_same_scores_as_the_objects_in_memory(tmp_path):
    objects = [sample("a", 0.2, views=9, start=1.0), sample("b", 0.8, views=9)]
    with ShardWriter(shard_path(tmp_path, 0)) as writer:
        for item in objects:
            rgba = item.rgba.permute(0, 2, 3, 1).numpy()
            members = encode_sample(rgba, item.cam2world, item.intrinsics, item.caption, item.metadata)
            writer.write(item.key, members)
    write_index(tmp_path)
    methods = {"white": white, "seer": seer}
    stored, memory = evaluate(methods, MultiviewShards(tmp_path)), evaluate(methods, objects)
    assert stored[["method", "key", "category", "views"]].equals(memory[["method", "key", "category", "views"]])
    np.testing.assert_allclose(stored[["psnr", "ssim", "lpips"]], memory[["psnr", "ssim", "lpips"]], rtol=1e-4)


def test_evaluation_needs_no_renderer():
    code = (
        "import sys; from vfusion3d.evaluation import baselines, figures, metrics, protocol, tables; "
        "print([name for name in ('pyvista', 'vtk', 'vtkmodules', 'trimesh', 'bpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def _composited(rgba: np.ndarray) -> np.ndarray:
    rgba = rgba.astype(np.float64) / 255
    return rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
