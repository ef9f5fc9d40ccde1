"""The simulated annotator: what it calls good, what bad, and what it cannot know."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from vfusion3d.curation.annotations import Annotations
from vfusion3d.curation.annotator import APART, EACH_KIND, Verdict, annotate, call, judge_video, nearest_side
from vfusion3d.curation.truth import true_elevations, true_orbit
from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.perceptual import perceptual_distance
from vfusion3d.profiles import load_profile
from vfusion3d.video.generate import generate_videos

FRAMES, SIZE = 16, 48


@pytest.fixture(scope="module")
def perceptual():
    return perceptual_distance(load_profile("smoke"))


@pytest.fixture(scope="module")
def car():
    return true_orbit("a striped red and white car", 3, 0, FRAMES, SIZE)[0]


def test_the_truth_itself_is_good_also_a_little_blurred(car, perceptual):
    assert judge_video(car, car, perceptual).good
    blurred = torch.nn.functional.avg_pool2d(car, 3, 1, 1, count_include_pad=False)
    assert judge_video(blurred, car, perceptual).good


def test_what_stands_still_turns_backwards_or_at_random_is_bad(car, perceptual):
    backwards, order = car[-torch.arange(FRAMES) % FRAMES], torch.randperm(FRAMES, generator=torch.Generator())
    for video in (car[:1].expand_as(car), backwards, car[order]):
        verdict = judge_video(video, car, perceptual)
        assert not verdict.good
        assert verdict.turning < 0.5


def test_another_object_that_turns_is_bad(car, perceptual):
    other = true_orbit("a green tree", 3, 1, FRAMES, SIZE)[0]
    assert not judge_video(other, car, perceptual).good


def test_one_frame_that_falls_apart_makes_a_video_bad(car, perceptual):
    noise = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    broken = car.clone()
    broken[9] = noise
    verdict = judge_video(broken, car, perceptual)
    assert not verdict.good
    assert verdict.distance < verdict.between  # in the mean it would pass


def test_the_conditions_say_which_one_a_video_fails(car, perceptual):
    still, noise = car[:1].expand_as(car), torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([car[:9], noise[None], car[10:]])
    failed = {
        name: [word for word, holds in judge_video(video, car, perceptual).conditions.items() if not holds]
        for name, video in {"truth": car, "still": still, "broken": broken}.items()
    }
    assert failed["truth"] == []
    assert "turns" in failed["still"]
    assert failed["broken"] == ["holds together"]


def test_the_nearest_side_is_near_in_whatever_order_and_far_for_another_object(car, perceptual):
    order = torch.randperm(FRAMES, generator=torch.Generator().manual_seed(0))
    assert nearest_side(car[order], car, perceptual) == pytest.approx(0, abs=1e-6)
    other = true_orbit("a green tree", 3, 1, FRAMES, SIZE)[0]
    assert nearest_side(other, car, perceptual) > APART / 2


def test_of_what_looks_the_same_from_all_sides_no_turning_is_asked(perceptual):
    bottle = torch.ones(FRAMES, 3, SIZE, SIZE)
    bottle[..., 8:40, 18:30] = 0.3
    verdict = judge_video(bottle, bottle, perceptual)
    assert math.isnan(verdict.turning)
    assert verdict.good


def test_the_margin_is_that_of_the_hardest_condition():
    assert Verdict(turning=1.0, distance=0.1, between=0.4, worst=0.3).margin == pytest.approx(0.45 / 0.3)
    assert Verdict(turning=0.25, distance=0.1, between=0.4, worst=0.1).margin == pytest.approx(0.5)
    assert Verdict(turning=math.nan, distance=0.2, between=0.3, worst=0.1).margin == pytest.approx(1.5)


def test_at_least_a_fifth_is_called_good_and_bad():
    def video(turning):
        return Verdict(turning, 0.01, 0.4, 0.01)

    bad = [video(turning) for turning in (0.1, 0.4, 0.2, 0.3, 0.0, -0.5, -0.1, 0.05, 0.01, 0.02)]
    assert np.flatnonzero(call(bad)).tolist() == [1, 3]
    good = [video(turning) for turning in (0.9, 0.8, 0.95, 0.6, 1.0)]
    assert call(good) == [True, True, True, False, True]
    mixed = [video(turning) for turning in (0.9, 0.4, 0.6, 0.2, 0.1)]
    assert call(mixed) == [verdict.good for verdict in mixed]
    assert call([]) == []


class Turns:
    """A video model whose first `good` videos are the truth, while the others stand still."""

    def __init__(self, prompts, seed, good):
        self.network = torch.nn.Linear(1, 1)
        self.prompts, self.seed, self.good, self.made = prompts, seed, good, 0

    def generate(self, images, generators, **options):
        videos = []
        for image in images:
            index, self.made = self.made, self.made + 1
            still = image[None].expand(FRAMES, -1, -1, -1)
            videos.append(
                true_orbit(self.prompts[index], self.seed, index, FRAMES, SIZE)[0] if index < self.good else still
            )
        return torch.stack(videos)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    from vfusion3d.foundations.text_to_image import rendered_prompts

    prompts = ["a red car", "a blue chair", "a striped red and white mug", "a green sofa", "a red teapot"]
    recipe = dataclasses.replace(load_profile("smoke").video, size=SIZE)
    index = generate_videos(
        tmp_path_factory.mktemp("videos") / "data",
        prompts,
        rendered_prompts,
        Turns(prompts, 5, good=3),
        recipe,
        drawn_by="stand-in",
        seed=5,
        progress=False,
    )
    return VideoShards(index.parent)


def test_generated_videos_are_judged_by_their_own_truth_and_those_judged_are_left_alone(videos, perceptual, tmp_path):
    annotations = Annotations(tmp_path / "annotations.csv", videos)
    annotations.judge(videos.keys[0], False, "ann")
    verdicts = annotate(annotations, videos, range(5), perceptual, progress=False)
    assert list(verdicts) == videos.keys[1:]
    said = [annotations.get(key) for key in videos.keys]
    assert [one.good for one in said] == [False, True, True, False, False]
    assert [one.annotator for one in said] == ["ann"] + 4 * ["simulated"]
    assert EACH_KIND * 4 <= 2
    assert annotate(annotations, videos, range(5), perceptual, progress=False) == {}


def test_the_true_elevation_of_a_video_is_that_of_its_first_frame(videos):
    wanted = [true_orbit(videos.caption(i), 5, i, 1, 16)[1] for i in range(5)]
    assert true_elevations(videos).tolist() == wanted


def test_nobody_knows_the_truth_of_another_text_to_image_model_s_pictures(videos, perceptual, tmp_path, monkeypatch):
    annotations = Annotations(tmp_path / "annotations.csv", videos)
    monkeypatch.setitem(videos.index["settings"], "text_to_image", "sdxl")
    with pytest.raises(ValueError, match=r"not of sdxl: a person"):
        annotate(annotations, videos, range(2), perceptual, progress=False)
    with pytest.raises(ValueError, match="not of sdxl"):
        true_elevations(videos)
