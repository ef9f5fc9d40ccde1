"""The simulated judge: what it calls good, what bad, and what it cannot know."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from vfusion3d.curation.judgements import SIMULATED, Judgements
from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.perceptual import perceptual_distance
from vfusion3d.runs.profiles import load_profile
from vfusion3d.stand_ins.judge import EACH_KIND, LIKE, Verdict, call, judge_video, judge_videos
from vfusion3d.stand_ins.truth import true_elevations, true_orbit
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


@pytest.mark.parametrize("prompt", ["a striped red and white car", "a blue chair", "a red guitar", "a green mug"])
def test_what_stands_still_or_turns_otherwise_has_other_outlines_and_is_bad(prompt, perceptual):
    truth = true_orbit(prompt, 3, 0, FRAMES, SIZE)[0]
    count = torch.arange(FRAMES)
    shuffled = torch.cat([count[:1], 1 + torch.randperm(FRAMES - 1, generator=torch.Generator().manual_seed(1))])
    for order in (0 * count, -count % FRAMES, count // 2, shuffled):
        verdict = judge_video(truth[order], truth, perceptual)
        assert not verdict.good
        assert not verdict.conditions["is consistent"]


def test_what_stands_still_does_not_move_and_what_turns_backwards_does(car, perceptual):
    still = judge_video(car[:1].expand_as(car), car, perceptual)
    assert still.change == 0
    assert not still.conditions["moves"]
    backwards = judge_video(car[-torch.arange(FRAMES) % FRAMES], car, perceptual)
    assert backwards.change == pytest.approx(1)
    assert backwards.conditions["moves"]


def test_another_object_that_turns_is_bad(car, perceptual):
    other = judge_video(true_orbit("a green tree", 3, 1, FRAMES, SIZE)[0], car, perceptual)
    assert not other.good
    assert other.distance > LIKE


def test_the_right_outline_in_wrong_colours_is_not_like_the_truth(car, perceptual):
    verdict = judge_video(torch.cat([car[:1], car[1:, [2, 0, 1]]]), car, perceptual)
    assert verdict.overlap == 1
    assert [name for name, holds in verdict.conditions.items() if not holds] == ["is like the truth"]


def test_one_frame_that_falls_apart_makes_a_video_bad(car, perceptual):
    noise = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([car[:9], noise[None], car[10:]])
    failed = [name for name, holds in judge_video(broken, car, perceptual).conditions.items() if not holds]
    assert failed == ["holds together"]  # in the mean it would pass


def test_the_first_frame_was_given_and_is_not_compared_with_the_truth(car, perceptual):
    other = torch.cat([torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), car[1:]])
    assert judge_video(other, car, perceptual).distance == pytest.approx(0, abs=1e-6)
    assert judge_video(other, car, perceptual).overlap == 1


def test_of_what_looks_the_same_from_all_sides_no_turning_is_asked(perceptual):
    bottle = torch.ones(FRAMES, 3, SIZE, SIZE)
    bottle[..., 8:40, 18:30] = 0.3
    verdict = judge_video(bottle, bottle, perceptual)
    assert math.isnan(verdict.change)
    assert verdict.good


def test_a_video_of_another_length_cannot_be_judged(car, perceptual):
    with pytest.raises(ValueError, match="cannot be held to"):
        judge_video(car[:8], car, perceptual)


def test_the_margin_is_that_of_the_hardest_condition():
    assert Verdict(change=1.0, overlap=0.9, distance=0.1, worst=0.3).margin == pytest.approx(0.45 / 0.3)
    assert Verdict(change=0.25, overlap=0.9, distance=0.1, worst=0.1).margin == pytest.approx(0.5)
    assert Verdict(change=math.nan, overlap=0.9, distance=0.2, worst=0.1).margin == pytest.approx(1.5)
    assert Verdict(change=math.nan, overlap=0.5, distance=0.2, worst=0.1).margin == pytest.approx(0.5)


def test_at_least_a_fifth_is_called_good_and_bad():
    def video(change):
        return Verdict(change, 0.99, 0.01, 0.01)

    bad = [video(change) for change in (0.1, 0.4, 0.2, 0.3, 0.0, 0.06, 0.07, 0.05, 0.01, 0.02)]
    assert np.flatnonzero(call(bad)).tolist() == [1, 3]
    good = [video(change) for change in (0.9, 0.8, 0.95, 0.6, 1.0)]
    assert call(good) == [True, True, True, False, True]
    mixed = [video(change) for change in (0.9, 0.4, 0.6, 0.2, 0.1)]
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
    )
    return VideoShards(index.parent)


def test_generated_videos_are_judged_by_their_own_truth_and_a_person_s_judgements_are_left_alone(
    videos, perceptual, tmp_path
):
    judgements = Judgements(tmp_path / "judgements.csv", videos)
    judgements.judge(videos.keys[0], False, "ann")
    verdicts = judge_videos(judgements, videos, range(5), perceptual)
    assert list(verdicts) == videos.keys[1:]
    said = [judgements.get(key) for key in videos.keys]
    assert [one.good for one in said] == [False, True, True, False, False]
    assert [one.judge for one in said] == ["ann"] + 4 * [SIMULATED]
    assert EACH_KIND * 4 <= 2
    assert judge_videos(judgements, videos, range(5), perceptual) == {}


def test_judgements_of_an_earlier_version_are_replaced_also_of_other_videos(videos, perceptual, tmp_path):
    judgements = Judgements(tmp_path / "judgements.csv", videos)
    for key, judge in zip(videos.keys, ("ann", "simulated", SIMULATED, "simulated"), strict=False):
        judgements.judge(key, False, judge)
    judged = judge_videos(judgements, videos, [0, 1, 4], perceptual)
    assert list(judged) == [videos.keys[place] for place in (4, 1, 3)]
    assert [judgements.get(key).good for key in videos.keys] == [False, True, False, False, False]
    assert [judgements.get(key).simulated for key in videos.keys] == [False] + 4 * [True]


def test_the_true_elevation_of_a_video_is_that_of_its_first_frame(videos):
    wanted = [true_orbit(videos.caption(i), 5, i, 1, 16)[1] for i in range(5)]
    assert true_elevations(videos).tolist() == wanted


def test_nobody_knows_the_truth_of_another_text_to_image_model_s_pictures(videos, perceptual, tmp_path, monkeypatch):
    judgements = Judgements(tmp_path / "judgements.csv", videos)
    monkeypatch.setitem(videos.index["settings"], "text_to_image", "sdxl")
    with pytest.raises(ValueError, match=r"not of sdxl: a person"):
        judge_videos(judgements, videos, range(2), perceptual)
    with pytest.raises(ValueError, match="not of sdxl"):
        true_elevations(videos)
