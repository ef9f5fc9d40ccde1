"""What a synthetic video should have shown, and how far it turned."""

import dataclasses
import math

import pytest
import torch

from vfusion3d.data.images import on_white
from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.foundations.text_to_image import rendered_prompts
from vfusion3d.runs.profiles import load_profile
from vfusion3d.stand_ins.truth import how_far_round, true_orbit, turning, unseen_orbit
from vfusion3d.video.generate import draw_picture
from vfusion3d.world.captions import CaptionError
from vfusion3d.world.sources import ProceduralObjects

PROMPTS = ("a red mug", "a tall table", "a striped red and white mug", "a green tree", "a blue car", "a tall lamp")
RECIPE = dataclasses.replace(load_profile("smoke").video, size=48)


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_the_first_true_frame_is_the_drawn_picture_to_the_byte(index):
    drawn, _ = draw_picture(index, PROMPTS, rendered_prompts, RECIPE, seed=7)
    truth, elevation = true_orbit(PROMPTS[index], 7, index, frames=16, size=48)
    assert truth.shape == (16, 3, 48, 48)
    assert torch.equal(truth[:1], drawn)
    assert 0 <= elevation <= math.pi / 4


def test_truths_of_other_samples_are_others():
    truth, elevation = true_orbit("a red mug", 7, 0, frames=4, size=32)
    for seed, index in ((8, 0), (7, 1)):
        other, height = true_orbit("a red mug", seed, index, frames=4, size=32)
        assert height != elevation
        assert not torch.equal(truth, other)


def test_a_prompt_nobody_can_draw_is_named():
    with pytest.raises(CaptionError, match="quantum"):
        true_orbit("a quantum of solace", 7, 0, frames=4, size=32)


def test_the_orbit_of_an_unseen_object_is_its_stored_views_without_their_noise(tmp_path):
    made = render_dataset(tmp_path, ProceduralObjects(("car",)), 1, views=8, size=48)
    shards = MultiviewShards(made.parent)
    stored, clean = on_white(shards[0].rgba), unseen_orbit(shards, 0, 8, 48)
    assert clean.shape == stored.shape == (8, 3, 48, 48)
    assert not torch.equal(clean, stored)
    assert how_far_round(clean, stored).tolist() == list(range(8))
    shards.metadata = lambda index: {"elevation": 0.3}  # a mesh file: its stored views are all there is
    assert torch.equal(unseen_orbit(shards, 0, 4, 48), stored[::2])


@pytest.fixture(scope="module")
def car():
    return true_orbit("a red car", 3, 0, frames=16, size=32)[0]


def test_turning_is_1_for_the_truth_0_for_a_still_picture_and_minus_1_the_wrong_way_round(car):
    backwards = car[-torch.arange(16) % 16]
    assert turning(car, car) == pytest.approx(1, abs=1e-6)
    assert turning(backwards, car) == pytest.approx(-1, abs=1e-6)
    for view in range(16):
        assert turning(car[view].expand_as(car), car) == pytest.approx(0, abs=1e-6)


def test_turning_of_shuffled_frames_is_0_in_the_mean_and_that_of_three_quarters_of_a_turn_between(car):
    generator = torch.Generator().manual_seed(0)
    shuffled = [turning(car[torch.randperm(16, generator=generator)], car) for _ in range(200)]
    assert sum(shuffled) / 200 == pytest.approx(0, abs=0.06)  # a few standard errors
    assert 0.2 < turning(car[torch.arange(16) * 3 // 4], car) < 0.8


def test_turning_survives_noise_and_a_wrong_brightness(car):
    noise = 0.05 * torch.randn(car.shape, generator=torch.Generator().manual_seed(0))
    assert turning((0.9 * car + noise).clamp(0, 1), car) > 0.9


def test_where_two_sides_look_alike_either_will_do(car):
    twice = car[torch.arange(16) * 2 % 16]  # half the orbit, twice: view 3 looks like view 11
    twice = twice + 1e-3 * torch.rand(twice.shape, generator=torch.Generator().manual_seed(0))  # but is another one
    opposite = twice[(torch.arange(16) + 8) % 16]
    mixed = torch.where((torch.arange(16) % 3 == 0).view(-1, 1, 1, 1), opposite, twice)
    assert how_far_round(mixed, twice).tolist() != list(range(16))
    assert turning(mixed, twice) == pytest.approx(1, abs=1e-6)


def test_turning_that_cannot_be_seen_is_nan(car):
    assert math.isnan(turning(car, car[:1].expand_as(car)))
    lamp = true_orbit("a red lamp", 3, 0, frames=16, size=32)[0]  # round: only its shading changes
    assert (lamp[0] - lamp[8]).abs().max() > 0.05
    assert math.isnan(turning(lamp, lamp))
    with pytest.raises(ValueError, match="cannot be held"):
        turning(car[:8], car)


def test_how_far_round_names_the_nearest_true_view(car):
    order = torch.tensor([4, 4, 15, 0, 9])
    assert how_far_round(car[order] + 0.01, car).tolist() == order.tolist()
