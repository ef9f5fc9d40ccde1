"""The filter, the elevations and the labels of synthetic videos."""

import dataclasses
import math
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline
from tiny_model import tiny_model

from vfusion3d import cameras
from vfusion3d.curation.curate import load_model, save_model
from vfusion3d.curation.elevation import grouped, mean_error, predict_by_groups, predict_elevation, train_elevation
from vfusion3d.curation.features import features_of_all, video_features
from vfusion3d.curation.labels import Labeller, label_videos
from vfusion3d.curation.quality import guesses, quality_scores, report, train_filter
from vfusion3d.data.images import uniform_frames
from vfusion3d.data.shards import Shards, ShardWriter, VideoShards, encode_video, shard_path, write_index
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.learning.loop import read_log
from vfusion3d.runs.profiles import LossWeights, load_profile
from vfusion3d.training.train import train_vfusion3d

FRAMES, SIZE = 16, 32


def colour(images):
    """Image features: the mean colour."""
    return images.mean(dim=(2, 3))


def middle(images):
    """A saliency: the middle quarter of the picture."""
    mask = torch.zeros(len(images), 1, *images.shape[-2:])
    quarter = images.shape[-1] // 4
    mask[..., quarter:-quarter, quarter:-quarter] = 1
    return mask


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven videos in shards of three; video i is grey of brightness i / 10, and its frames grow darker."""
    folder = tmp_path_factory.mktemp("videos")
    for shard in range(3):
        with ShardWriter(shard_path(folder, shard)) as writer:
            for index in range(3 * shard, min(3 * shard + 3, 7)):
                levels = np.linspace(25.5 * index, 12.75 * index, FRAMES)
                frames = np.broadcast_to(np.uint8(levels)[:, None, None, None], (FRAMES, SIZE, SIZE, 3))
                writer.write(f"{index:03d}", encode_video(frames, f"video {index}", {"index": index}))
    write_index(folder)
    return folder


class Bright:
    """Stands for a filter and an elevation model: reads brightness off the features."""

    def decision_function(self, features):
        return features.mean(axis=1) - 0.2

    def predict(self, features):
        return features.mean(axis=1)


@pytest.fixture
def labeller():
    return Labeller(colour, Bright(), Bright(), middle)


def test_frames_are_taken_at_equal_distances():
    assert uniform_frames(16, 4) == [0, 4, 8, 12]
    assert uniform_frames(16, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert uniform_frames(14, 4) == [0, 3, 7, 10]
    with pytest.raises(ValueError, match="video of 3"):
        uniform_frames(3, 4)


def test_a_video_s_features_are_the_mean_over_its_frames(videos):
    clips = torch.rand(3, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = clips[:, [0, 4, 8, 12]].mean(dim=(1, 3, 4))
    assert np.allclose(video_features(colour, clips, 4), wanted, atol=1e-6)
    assert np.allclose(features_of_all(colour, list(clips), 4, batch=2), wanted, atol=1e-6)


def test_a_filter_learns_a_border_that_is_no_line_and_reports_what_it_does_on_others():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 6))
    good = np.linalg.norm(features[:, :2], axis=1) < 1.2  # a disc
    model = train_filter(features[:400], good[:400])
    measured = report(quality_scores(model, features[400:]), good[400:])
    assert measured.accuracy > 0.9
    assert measured.auc > 0.95
    assert measured.good == good[400:].mean()
    assert measured.videos == 200
    assert (np.diff(measured.roc, axis=1) >= 0).all()
    guess = report(quality_scores(model, features[400:]), rng.permutation(good[400:]))
    assert guess.auc == pytest.approx(0.5, abs=0.1)


def test_a_condition_that_the_features_show_is_guessed_and_one_that_they_hide_is_not():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(200, 4))
    conditions = pd.DataFrame(
        {"shown": features[:, 0] > 0.4, "hidden": rng.random(200) < 0.6, "rare": np.arange(200) < 1}
    )
    table = guesses(features, conditions)
    assert np.allclose(table["holds"], conditions.mean())
    assert np.allclose(
        table["always the commoner"], [1 - table["holds"]["shown"], table["holds"]["hidden"], 1 - 1 / 200]
    )
    assert table["accuracy"]["shown"] > 0.9
    assert table["accuracy"]["hidden"] < table["always the commoner"]["hidden"] + 0.05
    assert table["AUC"]["shown"] > 0.95
    assert table["AUC"]["hidden"] == pytest.approx(0.5, abs=0.15)
    assert math.isnan(table["accuracy"]["rare"])  # it cannot be both learned from and held out


def test_labels_of_one_kind_cannot_teach_a_filter():
    with pytest.raises(ValueError, match=r"all 5 labels are good.*other kind"):
        train_filter(np.zeros((5, 2)), np.ones(5))
    model = train_filter(np.array([[0.0], [1.0]]), np.array([False, True]))
    assert math.isnan(report(quality_scores(model, np.array([[0.2]])), np.array([True])).auc)


def test_models_survive_their_file_and_files_with_other_classes_or_broken_ones_are_refused(tmp_path):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, 4))
    model = train_filter(features, features[:, 0] > 0)
    save_model(model, tmp_path / "new" / "filter.skops")
    loaded = load_model(tmp_path / "new" / "filter.skops")
    assert np.array_equal(quality_scores(loaded, features), quality_scores(model, features))
    elevation = train_elevation(features, features[:, 1])
    save_model(elevation, tmp_path / "elevation.skops")
    assert np.array_equal(load_model(tmp_path / "elevation.skops").predict(features), elevation.predict(features))

    class Foreign(BaseEstimator):
        pass

    skops.io.dump(Foreign(), tmp_path / "foreign.skops")
    with pytest.raises(ValueError, match=r"foreign\.skops holds .*Foreign"):
        load_model(tmp_path / "foreign.skops")
    other = MLPRegressor(solver="sgd").partial_fit(features, features[:, 0])
    skops.io.dump(other, tmp_path / "other.skops")
    with pytest.raises(ValueError, match=r"other\.skops holds sklearn\..*SGDOptimizer"):
        load_model(tmp_path / "other.skops")
    with pytest.raises(ValueError, match=r"elevation\.skops holds a TransformedTargetRegressor, not the filter"):
        load_model(tmp_path / "elevation.skops", Pipeline)
    skops.io.dump(LinearRegression().fit(features, features[:, 0]), tmp_path / "linear.skops")
    with pytest.raises(ValueError, match=r"linear\.skops holds a LinearRegression"):
        load_model(tmp_path / "linear.skops")
    with zipfile.ZipFile(tmp_path / "zip.skops", "w") as file:
        file.writestr("schema.json", "[]")
    with pytest.raises(ValueError, match=r"zip\.skops is not a whole skops file"):
        load_model(tmp_path / "zip.skops")
    whole = (tmp_path / "new" / "filter.skops").read_bytes()
    (tmp_path / "torn.skops").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"torn\.skops is not a whole skops file"):
        load_model(tmp_path / "torn.skops")


def test_equal_models_are_equal_bytes_wherever_in_memory_and_whenever_they_were_made(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 4))
    for name in ("a", "b"):  # a zip counts in steps of two seconds, so its members' times are looked at
        for kind, model in (
            ("quality", train_filter(features, features[:, 0] > 0)),
            ("elevation", train_elevation(features, features[:, 1], epochs=3)),
        ):
            save_model(model, tmp_path / name / f"{kind}.skops")
    for kind in ("quality", "elevation"):
        assert (tmp_path / "a" / f"{kind}.skops").read_bytes() == (tmp_path / "b" / f"{kind}.skops").read_bytes()
        with zipfile.ZipFile(tmp_path / "a" / f"{kind}.skops") as file:
            assert {member.date_time for member in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            assert max(int(number) for number in re.findall(rb'"__id__": (\d+)', file.read("schema.json"))) < 1000


def test_the_elevation_is_read_off_features_that_show_it():
    rng = np.random.default_rng(2)
    true = rng.uniform(0, math.pi / 4, 500)
    shown = np.stack([np.sin(3 * true), np.cos(2 * true), true**2], axis=1) @ rng.normal(size=(3, 20))
    features = shown + 0.01 * rng.normal(size=shown.shape)
    model = train_elevation(features[:400], true[:400])
    predicted = predict_elevation(model, features[400:])
    assert mean_error(predicted, true[400:]) < 2
    assert ((predicted >= 0) & (predicted <= math.pi / 4)).all()
    assert mean_error(np.array([0.1]), np.array([0.1 + math.radians(5)])) == pytest.approx(5)
    with pytest.raises(ValueError, match="too few"):
        train_elevation(features[:10], true[:10])


def test_every_group_of_four_uniform_views_is_asked_for_the_elevation():
    frames = np.zeros((2, 8, 3))
    frames[1] = np.array([0.2, 0.6, 0.2, 0.6, 0.2, 0.6, 0.2, 0.6])[:, None]  # even frames in one group, odd in another
    assert np.allclose(grouped(frames)[1], [[0.2] * 3, [0.6] * 3])
    assert np.allclose(predict_by_groups(Bright(), grouped(frames)), [0, 0.4])
    frames[1, ::2] = 5  # an answer beyond what 3D data have is cut before it is averaged
    assert np.allclose(predict_by_groups(Bright(), grouped(frames)), [0, (math.pi / 4 + 0.6) / 2])
    with pytest.raises(ValueError, match="7 frames cannot be divided into groups of 4"):
        grouped(frames[:, :7])


def test_labels_stand_beside_the_videos_key_for_key(videos, labeller, tmp_path):
    label_videos(videos, tmp_path / "labels", labeller, settings={"by": "test"}, batch=2)
    labels = Shards(tmp_path / "labels", verify=True)
    assert labels.keys == VideoShards(videos).keys
    brightness = VideoShards(videos)[6].frames.float().mean(dim=(1, 2, 3)) / 255
    assert labels.metadata(6)["score"] == pytest.approx(float(brightness[::2].mean()) - 0.2, abs=1e-3)
    assert labels.metadata(6)["elevation"] == pytest.approx(float(brightness[::2].mean()), abs=1e-3)
    finer = dataclasses.replace(labeller, patches=colour)  # asked for all frames
    label_videos(videos, tmp_path / "finer", finer, settings={"by": "test"}, batch=2)
    assert Shards(tmp_path / "finer").metadata(6)["elevation"] == pytest.approx(float(brightness.mean()), abs=1e-3)
    with pytest.raises(ValueError, match="by: test there, other now"):
        label_videos(videos, tmp_path / "labels", labeller, settings={"by": "other"})


def test_a_held_out_score_stands_in_place_of_the_filter_s_for_that_video_of_these_data(videos, labeller, tmp_path):
    source = VideoShards(videos)
    known = {(source.fingerprint, source.keys[1]): 7.0, ("another", source.keys[2]): 8.0}
    label_videos(videos, tmp_path / "plain", labeller, settings={})
    told = dataclasses.replace(labeller, held_out=known)
    label_videos(videos, tmp_path / "told", told, settings={})
    plain, scores = (
        [facts["score"] for facts in Shards(tmp_path / name).index["labels"]] for name in ("plain", "told")
    )
    assert scores == [plain[0], 7.0, *plain[2:]]


def test_labelling_goes_on_after_a_kill_and_in_parts_to_the_same_bytes(videos, labeller, tmp_path):
    options = {"settings": {}, "batch": 2}
    label_videos(videos, tmp_path / "whole", labeller, **options)
    seen = []

    def dies(images):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(images))
        return middle(images)

    killed = Labeller(colour, Bright(), Bright(), dies)
    with pytest.raises(KeyboardInterrupt):
        label_videos(videos, tmp_path / "killed", killed, **options)
    label_videos(videos, tmp_path / "killed", labeller, part=(1, 2), **options)
    label_videos(videos, tmp_path / "killed", labeller, part=(0, 2), **options)
    assert Shards(tmp_path / "killed").fingerprint == Shards(tmp_path / "whole").fingerprint


def test_labelled_videos_are_multi_view_samples_above_the_threshold(videos, labeller, tmp_path):
    label_videos(videos, tmp_path / "labels", labeller, settings={})
    everything = SyntheticShards(videos, tmp_path / "labels", threshold=None)
    assert len(everything) == 7
    assert everything.facts == [Shards(tmp_path / "labels").metadata(index) for index in range(7)]
    best = max(facts["score"] for facts in everything.facts)
    assert len(SyntheticShards(videos, tmp_path / "labels", threshold=best)) == 1  # what is equal is not lower
    kept = SyntheticShards(videos, tmp_path / "labels")
    assert kept.keys == ["003", "004", "005", "006"]  # from a mean brightness of 0.2 on
    sample = kept.read(0, [0, 5, 10])
    assert sample.rgba.shape == (3, 4, SIZE, SIZE)
    assert torch.equal(sample.rgba[:, :3], VideoShards(videos)[3].frames[[0, 5, 10]])
    assert set(sample.rgba[:, 3].unique().tolist()) == {0, 255}
    assert (sample.rgba[0, 3] > 0).float().mean() == 0.25
    azimuth, elevation, distance = cameras.azimuth_elevation_distance(sample.cam2world)
    assert azimuth[:2].tolist() == pytest.approx([0, 5 * 2 * math.pi / 16], abs=1e-5)
    assert elevation.tolist() == pytest.approx([kept.metadata(0)["elevation"]] * 3, abs=1e-5)
    assert distance.tolist() == pytest.approx([1.5] * 3, abs=1e-5)
    with pytest.raises(ValueError, match="score of 9 or more"):
        SyntheticShards(videos, tmp_path / "labels", threshold=9)


def test_vfusion3d_trains_on_labelled_videos_and_on_other_ones_only_in_another_folder(videos, labeller, tmp_path):
    label_videos(videos, tmp_path / "labels", labeller, settings={})
    changes = {"max_steps": 2, "batch_size": 2, "views": 3, "rays_per_view": 8, "samples_per_ray": 8}
    changes["losses"] = LossWeights(lpips=0, mse=1)
    recipe = dataclasses.replace(load_profile("smoke").training, **changes)
    profile = dataclasses.replace(load_profile("smoke"), training=recipe)
    data = SyntheticShards(videos, tmp_path / "labels")
    train_vfusion3d(profile, data, tmp_path / "run", model=tiny_model())
    assert np.isfinite(read_log(tmp_path / "run").loss).all()
    with pytest.raises(ValueError, match="data: "):
        train_vfusion3d(
            profile, SyntheticShards(videos, tmp_path / "labels", None), tmp_path / "run", model=tiny_model()
        )


def test_labels_of_other_videos_are_refused(videos, labeller, tmp_path):
    with ShardWriter(shard_path(tmp_path / "other", 0)) as writer:
        writer.write("x", encode_video(np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8), "", {}))
    write_index(tmp_path / "other")
    label_videos(tmp_path / "other", tmp_path / "labels", labeller, settings={})
    with pytest.raises(ValueError, match="label these videos again"):
        SyntheticShards(videos, tmp_path / "labels")


def test_labels_of_other_videos_with_the_same_keys_are_refused(labeller, tmp_path):
    for name in ("dark", "bright"):
        with ShardWriter(shard_path(tmp_path / name, 0)) as writer:
            frames = np.full((FRAMES, SIZE, SIZE, 3), {"dark": 100, "bright": 200}[name], np.uint8)
            writer.write("00000000", encode_video(frames, "", {}))
        write_index(tmp_path / name)
    label_videos(tmp_path / "dark", tmp_path / "labels", labeller, settings={})
    assert len(SyntheticShards(tmp_path / "dark", tmp_path / "labels")) == 1
    with pytest.raises(ValueError, match="label these videos again"):
        SyntheticShards(tmp_path / "bright", tmp_path / "labels")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": (2, 2)}, "part must be"),
        ({"part": (0, 0)}, "part must be"),
        ({"batch": 0}, "batch must be"),
    ],
)
def test_a_part_or_a_batch_out_of_range_is_refused_before_anything_is_written(
    videos, labeller, tmp_path, change, message
):
    with pytest.raises(ValueError, match=message):
        label_videos(videos, tmp_path / "labels", labeller, settings={}, **change)
    assert not (tmp_path / "labels").exists()


def test_each_frame_is_looked_at_once(videos, tmp_path):
    looked = []

    def features(images):
        looked.append(len(images))
        return colour(images)

    labeller = Labeller(features, Bright(), Bright(), middle)
    label_videos(videos, tmp_path / "labels", labeller, settings={})
    assert sum(looked) == 7 * 8
