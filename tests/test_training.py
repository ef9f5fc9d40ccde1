import dataclasses
import json
import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_model import tiny_model

from vfusion3d.cameras import (
    azimuth_elevation_distance,
    default_intrinsics,
    offset_cameras,
    orbit_cameras,
    rays_through,
)
from vfusion3d.data.shards import MultiviewShards, ShardWriter, encode_sample, shard_path, write_index
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.foundations.roles import Roles
from vfusion3d.learning.draws import sample_generators
from vfusion3d.learning.loop import read_log
from vfusion3d.learning.processes import PATIENCE
from vfusion3d.model.rendering import Field, render_rays
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.claim import changes, record
from vfusion3d.runs.profiles import LossWeights, Recipe, Stage, load_profile, profile_path
from vfusion3d.training.losses import Losses
from vfusion3d.training.schedule import learning_rate, render_resolution, stage_ends, total_steps
from vfusion3d.training.supervision import Supervision, varied
from vfusion3d.training.train import train_vfusion3d, training_lesson

PAPER = load_profile("paper").training


def ball_pictures(views: int, size: int, radius: float, colour: tuple[int, int, int]):
    """Analytic pictures of a ball at the origin: no renderer needed."""
    generator = torch.Generator().manual_seed(0)
    cameras = offset_cameras(orbit_cameras(views, 0.3), generator)
    ticks = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(views, -1, -1)
    origins, directions = rays_through(pixels, cameras, default_intrinsics(views))
    closest = torch.linalg.cross(origins, directions).norm(dim=-1)
    alpha = (closest < radius).view(views, size, size)
    rgba = torch.zeros(views, size, size, 4, dtype=torch.uint8)
    rgba[..., :3] = torch.tensor(colour, dtype=torch.uint8)
    rgba[..., 3] = alpha * 255
    return rgba.numpy(), cameras


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    with ShardWriter(shard_path(folder, 0)) as writer:
        for index, colour in enumerate([(200, 30, 30), (30, 30, 200), (30, 160, 30)]):
            rgba, cameras = ball_pictures(8, 64, 0.4 + 0.1 * index, colour)
            writer.write(f"ball{index}", encode_sample(rgba, cameras, default_intrinsics(8), "a ball", {}))
    write_index(folder)
    return MultiviewShards(folder)


def recipe(**changes):
    small = {"batch_size": 2, "patch_size": 32, "stages": (Stage(32, 4), Stage(48, 4)), "samples_per_ray": 16}
    return dataclasses.replace(
        load_profile("smoke").training, **{"restart_after_stage": 1, "max_steps": None} | small | changes
    )


def test_the_papers_stages_take_their_share_of_the_epochs():
    steps = total_steps(PAPER, 2_700_000)
    assert steps == math.ceil(30 * 2_700_000 / 1024)
    assert [round(end / steps * 30) for end in stage_ends(PAPER, steps)] == [5, 10, 15, 20, 30]


def test_the_learning_rate_warms_up_anneals_to_zero_and_restarts_after_ten_epochs():
    steps = 60_000
    rates = [learning_rate(PAPER, step, steps) for step in range(steps)]
    restart = steps // 3
    assert rates[0] == pytest.approx(4e-4 / 3000)
    assert rates[2999] == pytest.approx(4e-4)
    assert max(rates) == pytest.approx(4e-4)
    assert rates[restart - 1] < 1e-9
    assert rates[restart] == pytest.approx(4e-4)
    assert rates[-1] < 1e-9
    half = (3000 + restart) // 2
    assert rates[half] == pytest.approx(2e-4, rel=1e-3)


def test_the_baseline_draws_any_resolution_and_the_recipe_the_stages():
    generator = torch.Generator().manual_seed(0)
    baseline = dataclasses.replace(PAPER, multi_stage=False)
    drawn = {render_resolution(baseline, 0, 600, generator) for _ in range(3000)}
    assert drawn == set(range(128, 385))
    assert [render_resolution(PAPER, step, 600, generator) for step in (0, 150, 250, 350, 450, 599)] == [
        128, 192, 256, 320, 384, 384,
    ]  # fmt: skip


def test_the_input_stands_at_azimuth_0_and_is_the_first_supervised_view(shards):
    batch = Supervision(shards, recipe(camera_noise=0.0, stages=(Stage(64, 1),), patch_size=64), 64, 100).batch(3)
    azimuth, _, _ = azimuth_elevation_distance(batch.cam2world[:, 0])
    assert azimuth.abs().max() < 1e-5
    assert torch.equal(batch.camera[:, :12].view(-1, 3, 4), batch.cam2world[:, 0])
    assert torch.allclose(batch.rgb[:, 0].mT.reshape(-1, 3, 64, 64), batch.image, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"rays_per_view": 200, "losses": LossWeights(lpips=0, mse=1)}])
def test_every_supervised_pixel_is_what_its_ray_meets(shards, changes):
    options = {"camera_noise": 0.0, "stages": (Stage(64, 1),)} | changes
    batch = Supervision(shards, recipe(**options), 64, 100).batch(0)
    origins, directions = rays_through(batch.pixels, batch.cam2world, batch.intrinsics)
    closest = torch.linalg.cross(origins, directions).norm(dim=-1)
    for i, key in enumerate(batch.keys):
        radius = 0.4 + 0.1 * int(key[-1])
        sure = (closest[i] - radius).abs() > 0.03
        assert torch.equal((closest[i] < radius)[sure], (batch.mask[i, ..., 0] > 0.5)[sure])
    assert torch.allclose(batch.rgb[batch.mask[..., 0] == 0], torch.ones(3))


def test_camera_noise_reaches_the_condition_and_not_the_supervision(shards):
    still, noisy = (Supervision(shards, recipe(camera_noise=n), 64, 100).batch(5) for n in (0.0, 0.02))
    difference = (noisy.camera - still.camera).abs()
    assert difference.min() > 0
    assert difference.max() <= 0.02 + 1e-6
    assert torch.equal(still.cam2world, noisy.cam2world)


def test_a_cooldown_keeps_the_rate_and_lets_it_fall_to_zero_in_its_share_of_the_steps():
    settings = dataclasses.replace(PAPER, cooldown=0.25, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[9:76] == [1.0] * 67
    assert rates[76:] == pytest.approx([step / 25 for step in range(24, 0, -1)])


def ball_seen(cam2world, intrinsics, centre, size=32, radius=0.2):
    """Which pixels of each view show a ball at `centre`."""
    ticks = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(len(cam2world), -1, -1)
    origins, directions = rays_through(pixels, cam2world, intrinsics)
    return (torch.linalg.cross(origins - centre, directions).norm(dim=-1) < radius).view(-1, size, size)


def test_a_varied_object_is_its_mirror_image_seen_by_the_mirrored_cameras_in_other_colours():
    centre, mirror = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([1.0, -1.0, 1.0])
    cameras, intrinsics = orbit_cameras(5, 0.4), default_intrinsics(5)
    intrinsics[:, 2] = 0.45
    seen = ball_seen(cameras, intrinsics, centre)
    rgba = torch.zeros(5, 4, 32, 32, dtype=torch.uint8)
    rgba[:, :3] = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None] * seen[:, None]
    rgba[:, 3] = seen * 255
    many = [each.expand(16, *each.shape) for each in (rgba, cameras, intrinsics)]
    others, moved, lenses = varied(*many, sample_generators(0, 0, range(16)))
    mirrored = moved[:, 1, 1, 3] < 0  # the second camera stood at positive y
    colours = set()
    for pictures, cam2world, lens, flipped in zip(others, moved, lenses, mirrored.tolist(), strict=True):
        expected = ball_seen(cam2world, lens, centre * mirror if flipped else centre)
        assert torch.equal(pictures[:, 3] > 0, expected)
        assert torch.allclose(torch.linalg.det(cam2world[:, :, :3]), torch.ones(5))
        colours.add(tuple(pictures[:, :3].amax((0, 2, 3)).tolist()))
    assert 0 < mirrored.sum() < 16
    assert len(colours) > 2
    assert {tuple(sorted(colour)) for colour in colours} == {(10, 20, 30)}


def test_batches_depend_on_the_step_alone_and_an_epoch_shows_every_object_once(shards):
    a, b = (Supervision(shards, recipe(batch_size=1), 64, 100, seed=4) for _ in range(2))
    later = [b.batch(step) for step in (2, 1, 0)][::-1]
    for step in range(3):
        assert torch.equal(a.batch(step).rgb, later[step].rgb)
    assert {batch.keys[0] for batch in later} == {"ball0", "ball1", "ball2"}


@pytest.mark.parametrize(
    "changes",
    [{"camera_noise": 0.02, "variety": True}, {"rays_per_view": 32, "losses": LossWeights(0, 1, 1)}],
    ids=["patches", "rays"],
)
def test_the_pieces_of_a_batch_are_the_whole_batch(shards, changes):
    data = Supervision(shards, recipe(batch_size=3, multi_stage=False, **changes), 64, 100)
    whole, *pieces = (data.batch(7, places) for places in (None, range(1), range(1, 3)))
    assert [key for piece in pieces for key in piece.keys] == whole.keys
    for name in ("image", "camera", "cam2world", "intrinsics", "pixels", "rgb", "mask"):
        torch.testing.assert_close(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name))


def test_a_patch_is_compared_in_its_place(shards):
    """Losses put pixels back into images: rendering exactly the target gives zero LPIPS."""
    settings = recipe(camera_noise=0.0)
    batch = Supervision(shards, settings, 64, 100).batch(0)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, shown, wanted):
            seen.append(wanted)
            return (shown - wanted).square().mean((1, 2, 3))

    losses = Losses(settings, Spy())(tiny_model(), batch, torch.Generator().manual_seed(0))
    assert set(losses) == {"loss", "lpips", "opacity"}
    assert torch.equal(seen[0][5], batch.rgb[1, 1].view(32, 32, 3).movedim(-1, 0))


@pytest.mark.parametrize(("mixed_precision", "half"), [("no", False), ("bf16", True)])
def test_the_field_is_computed_in_the_recipes_precision(shards, mixed_precision, half, monkeypatch):
    settings, seen, lookup = recipe(mixed_precision=mixed_precision), [], Field.lookup

    def spy(*what):
        seen.append(torch.is_autocast_enabled("cpu"))
        return lookup(*what)

    batch, model = Supervision(shards, settings, 64, 100).batch(0), tiny_model()
    monkeypatch.setattr(Field, "lookup", spy)
    Losses(settings, PerceptualDistance("untrained"))(model, batch, torch.Generator().manual_seed(0))
    assert set(seen) == {half}


def test_lpips_is_zero_for_equal_pictures_grows_with_blur_and_is_the_same_every_time():
    distance = PerceptualDistance("untrained")
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blurred = [torch.nn.functional.avg_pool2d(picture, k, 1, k // 2, count_include_pad=False) for k in (3, 5, 9)]
    values = [distance(picture, other).item() for other in (picture, *blurred)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)
    assert values[1] > 1e-4
    assert PerceptualDistance("untrained")(picture, blurred[0]).item() == values[1]


def test_training_on_balls_lowers_the_loss_and_leaves_a_model_that_loads(shards, tmp_path):
    profile = dataclasses.replace(
        load_profile("smoke"),
        training=recipe(
            rays_per_view=64, losses=LossWeights(lpips=0, mse=1), stages=(Stage(64, 100),), learning_rate=3e-3,
            restart_after_stage=None, warmup_steps=0,
        ),
        device="cpu",
    )  # fmt: skip
    model = train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model(), checkpoint_every=100)
    log = read_log(tmp_path / "run")
    assert log["loss"].tail(2).mean() < 0.5 * log["loss"].iloc[0]
    again = train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model())
    assert not again.training
    learned, loaded = model.state_dict(), again.state_dict()
    assert learned.keys() == loaded.keys()
    assert all(torch.equal(learned[name], loaded[name]) for name in learned)


def test_a_stopped_training_of_the_model_goes_on_to_the_same_weights(shards, tmp_path):
    quick = recipe(max_steps=4, samples_per_ray=8)
    profile = dataclasses.replace(load_profile("smoke"), training=quick)
    for name, stops in (("whole", [math.inf]), ("halves", [0.0, 0.0, math.inf])):
        for stop in stops:  # 0 seconds: after one step
            train_vfusion3d(profile, shards.folder, tmp_path / name, model=tiny_model(), stop_after=stop)
    whole, halves = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


PROCESS = """
import os, sys
from accelerate import PartialState
from vfusion3d.cli.main import main
told = main(sys.argv[2:])
state = PartialState()
open(f"{sys.argv[1]}.{state.process_index}", "w").write(str(state.num_processes))
sys.exit(told)
"""


def test_processes_join_in_one_way_only_and_wait_for_one_another_for_days():
    """A second way would leave them the ten minutes of torch, if it came first."""
    package = Path(__file__).resolve().parents[1] / "vfusion3d"
    joining = {path.name: path.read_text().count("PartialState(") for path in package.rglob("*.py")}
    assert {name: count for name, count in joining.items() if count} == {"processes.py": 1}
    assert timedelta(days=1) < PATIENCE


def test_two_processes_train_the_model_that_one_trains_in_pieces_or_at_once(shards, tmp_path):
    """The command of the README on two CPU processes: gradients are shared, one of them writes."""
    profile = yaml.safe_load(profile_path("smoke").read_text())
    profile["name"] = "quick"
    profile["training"] |= {"batch_size": 2, "max_steps": 3, "samples_per_ray": 8}
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(profile))
    (tmp_path / "process.py").write_text(PROCESS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch += [tmp_path / "process.py", tmp_path / "world", "train"]
    launch += ["--profile", tmp_path / "quick.yaml", "--data", shards.folder, "-o", tmp_path / "two"]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"world.{rank}").read_text() for rank in range(2)] == ["2", "2"]
    two, logged = VFusion3D.from_pretrained(tmp_path / "two" / "model"), read_log(tmp_path / "two")
    alone = load_profile(tmp_path / "quick.yaml")
    for pieces in (None, 1):
        in_pieces = dataclasses.replace(alone, training=dataclasses.replace(alone.training, micro_batch=pieces))
        one = train_vfusion3d(in_pieces, shards.folder, tmp_path / f"one-{pieces}")
        # Compared as a whole: where a gradient is nothing but rounding, AdamW's first steps make much of it.
        ours, theirs = (torch.nn.utils.parameters_to_vector(model.parameters()) for model in (one, two))
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()
        pandas.testing.assert_frame_equal(read_log(tmp_path / f"one-{pieces}"), logged, rtol=1e-5)


def test_a_run_of_another_recipe_data_set_or_start_is_not_taken_for_this_one(shards, tmp_path):
    quick = recipe(rays_per_view=16, losses=LossWeights(lpips=0, mse=1), max_steps=1, samples_per_ray=8)
    profile = dataclasses.replace(load_profile("smoke"), training=quick)
    train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model())
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model(), seed=1)
    with pytest.raises(ValueError, match="start: "):
        train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model(seed=1))
    changed = dataclasses.replace(profile, training=dataclasses.replace(quick, weight_decay=0.1))
    with pytest.raises(ValueError, match=r"training\.weight_decay: 0\.05 there, 0\.1 now"):
        train_vfusion3d(changed, shards.folder, tmp_path / "run", model=tiny_model())
    train_vfusion3d(changed, shards.folder, tmp_path / "run", model=tiny_model(), overwrite=True)


@dataclasses.dataclass(frozen=True)
class DeepRecipe(Recipe):
    """The recipe of a version that has one switch more."""

    depth_loss: float = 0.0


def test_a_new_switch_goes_on_where_it_is_off_and_never_returns_the_old_model_where_it_is_on(shards, tmp_path):
    quick = recipe(rays_per_view=16, losses=LossWeights(lpips=0, mse=1), max_steps=2, samples_per_ray=8)
    profile = dataclasses.replace(load_profile("smoke"), training=quick)
    train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model())
    weights = tmp_path / "run" / "model" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    off, on = (DeepRecipe(**vars(quick), depth_loss=weight) for weight in (0.0, 5.0))
    train_vfusion3d(profile, shards.folder, tmp_path / "run", recipe=off, model=tiny_model())
    with pytest.raises(ValueError, match=r"\(training\.depth_loss: 0\.0 there, 5\.0 now\)"):
        train_vfusion3d(profile, shards.folder, tmp_path / "run", recipe=on, model=tiny_model())
    assert weights.stat().st_mtime_ns == before


def test_a_new_part_of_the_model_s_config_counts_as_its_default(shards):
    model = tiny_model()

    def settings():
        return training_lesson(Roles(load_profile("smoke")), shards, recipe(), model, 0).settings

    known = record(settings())
    del known["model"]["samples_per_ray"]  # as an older version wrote it
    assert changes(known, settings()) == ["model.samples_per_ray: 128 there, 16 now"]
    model.config = dataclasses.replace(model.config, samples_per_ray=128)
    assert changes(known, settings()) == []


def test_the_precision_that_auto_comes_to_is_what_is_recorded(shards, tmp_path, monkeypatch):
    quick = recipe(rays_per_view=16, losses=LossWeights(lpips=0, mse=1), max_steps=1, mixed_precision="auto")
    profile = dataclasses.replace(load_profile("smoke"), training=quick, device="cpu")
    monkeypatch.setattr("vfusion3d.learning.precision.has_bfloat16", lambda: False)
    train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model())
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["training"]["mixed_precision"] == "no"
    monkeypatch.setattr("vfusion3d.learning.precision.has_bfloat16", lambda: True)
    with pytest.raises(ValueError, match=r"training\.mixed_precision: no there, bf16 now"):
        train_vfusion3d(profile, shards.folder, tmp_path / "run", model=tiny_model())


def test_what_is_computed_again_for_the_gradient_gives_the_same_gradient(shards):
    gradients = []
    for checkpointing in (False, True):
        profile = dataclasses.replace(
            load_profile("smoke"),
            training=recipe(samples_per_ray=8, losses=LossWeights(0, 1, 1), checkpointing=checkpointing),
        )
        lesson = training_lesson(Roles(profile), shards, profile.training, tiny_model(), 0)
        assert lesson.model.transformer.gradient_checkpointing == checkpointing
        batch = lesson.batch_of(0, range(2))
        lesson.losses_of(lesson.model, batch, sample_generators(0, 0, range(2)))["loss"].backward()
        gradients.append({name: p.grad for name, p in lesson.model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_every_loss_is_what_its_name_says_and_counts_by_its_weight(shards):
    weights = LossWeights(lpips=0.0, opacity=0.5, mse=2.0, l1=3.0)
    settings = recipe(rays_per_view=32, losses=weights, samples_per_ray=8)
    model, batch = tiny_model(), Supervision(shards, settings, 64, 100).batch(0)
    losses = Losses(settings, None)(model, batch, torch.Generator().manual_seed(0))
    rays = (ray.flatten(1, 2) for ray in rays_through(batch.pixels, batch.cam2world, batch.intrinsics))
    planes, generator = model(batch.image, batch.camera), torch.Generator().manual_seed(0)
    rgb, opacity, _ = render_rays(model.field, planes, *rays, samples=8, generator=generator)
    away = rgb - batch.rgb.flatten(1, 2)
    seen = opacity - batch.mask.flatten(1, 2)
    expected = {"mse": away.square().mean(), "l1": away.abs().mean(), "opacity": seen.square().mean()}
    assert losses.keys() == {"loss", *expected}
    assert all(losses[name].item() == pytest.approx(value.item(), rel=1e-4) for name, value in expected.items())
    whole = 2 * expected["mse"] + 3 * expected["l1"] + 0.5 * expected["opacity"]
    assert losses["loss"].item() == pytest.approx(whole.item(), rel=1e-4)


def test_asking_for_lpips_on_scattered_rays_is_refused():
    with pytest.raises(ValueError, match="rays_per_view"):
        Losses(recipe(), None)


def test_a_data_set_with_too_few_views_is_refused(shards):
    with pytest.raises(ValueError, match="wants 9 views"):
        Supervision(shards, recipe(views=9), 64, 100)
