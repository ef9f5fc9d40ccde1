"""The test set is balanced, differs from the training set, and what the showcase shows is what the shards hold."""

import numpy as np
import torch

from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.evaluation.baselines import repeat_input
from vfusion3d.evaluation.showcase import folded_sheet, novel_views_by, turn_sheet
from vfusion3d.runs.claim import short_name
from vfusion3d.world.catalogue import COMMON, DRAWN
from vfusion3d.world.unseen import ROUND, UnseenObjects, eval_prompts

PROMPTS = [
    "a brown mug",
    "a striped orange and white rocket",
    "a striped orange and green chair",
    "a wide two-tone brown and pink mushroom",
]


def test_every_category_comes_once_a_round_and_halves_alternate():
    assert sorted(ROUND) == sorted(DRAWN)
    for count in (4, 20, 40):
        names = [ROUND[index % len(ROUND)] for index in range(count)]
        assert sum(name in COMMON for name in names) == count // 2


def test_the_evaluation_prompts_are_those_of_every_result_so_far():
    assert eval_prompts(4) == PROMPTS
    assert short_name("\n".join(eval_prompts(40))) == "fd0072cf33c84da1"


def test_an_unseen_object_is_of_its_turns_category_and_says_so():
    for index in (0, 1, len(ROUND) + 2):
        made = UnseenObjects()(index, np.random.default_rng([5, index]))
        assert made.metadata["category"] == ROUND[index % len(ROUND)]
        assert made.metadata["common"] == (made.metadata["category"] in COMMON)
        assert made.metadata["category"] in made.caption


def test_the_showcase_shows_the_stored_views_at_the_wanted_turns(tmp_path):
    render_dataset(tmp_path, UnseenObjects(), 1, views=8, size=32, camera_offset=0.0)
    sample = MultiviewShards(tmp_path)[0]
    shown = novel_views_by({"repeat": repeat_input}, sample, size=32, input_view=6, turns=(1 / 4, 1 / 2, 3 / 4))
    white = sample.rgba[:, :3] / 255 * (sample.rgba[:, 3:] / 255) + 1 - sample.rgba[:, 3:] / 255
    assert list(shown) == ["input", "repeat", "truth"]
    assert torch.allclose(shown["input"], white[[6]], atol=1e-6)
    assert torch.allclose(shown["truth"], white[[0, 2, 4]], atol=1e-6)
    assert torch.allclose(shown["repeat"], white[[6, 6, 6]], atol=1e-6)
    asked = {}

    def note(image, camera, cam2world, intrinsics, size):
        asked["input"], asked["wanted"] = camera[0], cam2world
        return repeat_input(image, camera, cam2world, intrinsics, size)

    novel_views_by({"note": note}, sample, size=32, input_view=6, turns=(1 / 4,))
    x, y, _ = asked["input"][0, :, 3]
    assert abs(y) < 1e-5  # the input stands at azimuth 0
    assert x > 0
    x, y, _ = asked["wanted"][0, 0, :, 3]
    assert abs(x) < 1e-5  # a quarter turn on
    assert y > 0


def test_a_folded_sheet_shows_every_row_once():
    rows = [torch.full((2, 3, 8, 8), shade) for shade in (0.1, 0.2, 0.3)]
    pictures = [picture.get_array()[0, 0, 0] / 255 for picture in folded_sheet(rows, ["a", "b"]).axes[0].images]
    assert np.allclose(pictures, [0.1, 0.1, 0.2, 0.2, 0.3, 0.3], atol=1 / 62 + 1e-3)  # the fourth place stays empty


def test_a_turn_sheet_shows_the_input_and_each_turn_at_the_wanted_angles():
    def shades(*values):
        return torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8)

    turns = {"ours": {"a": shades(0.0, 0.1, 0.2, 0.3)}, "a method of 2 views": {"a": shades(0.5, 0.6)}}
    figure = turn_sheet(shades(0.9), turns, ["a"], ["a mug"], at=(1 / 4, 1 / 2))
    pictures = [picture.get_array()[0, 0, 0] / 255 for picture in figure.axes[0].images]
    assert np.allclose(pictures, [0.9, 0.1, 0.2, 0.5, 0.6], atol=1 / 62 + 1e-3)  # 32 levels
    words = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert words == ["a mug", "input", "ours 90°", "ours 180°", "a method of 2 views 90°", "a method of 2 views 180°"]
