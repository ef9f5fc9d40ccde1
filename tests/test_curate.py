"""From judged videos and 3D data to labels: what is learned from, what is kept, and the command."""

import json
import math
import os

import numpy as np
import pytest
import torch
from tiny_foundations import profile_with

from vfusion3d.cli.main import main
from vfusion3d.curation.curate import (
    ELEVATION,
    ORBITS,
    OTHERS,
    QUALITY,
    elevation_samples,
    judged_features,
    learned,
    new_labeller,
    orbit_features,
    save_model,
    stored_labeller,
    videos_to_judge,
)
from vfusion3d.curation.elevation import train_elevation
from vfusion3d.curation.judgements import Judgements
from vfusion3d.curation.labels import label_videos
from vfusion3d.curation.masks import mask_iou, with_patches
from vfusion3d.curation.quality import held_out_scores, quality_scores, report, train_filter
from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.data.shards import (
    MultiviewShards,
    Shards,
    ShardWriter,
    VideoShards,
    encode_video,
    shard_path,
    write_index,
)
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.foundations.image_features import image_features, patch_features
from vfusion3d.foundations.roles import Roles
from vfusion3d.foundations.saliency import unlike_the_background
from vfusion3d.foundations.text_to_image import rendered_prompts
from vfusion3d.runs.claim import changes, record
from vfusion3d.runs.layout import MissingArtifact
from vfusion3d.runs.profiles import load_profile
from vfusion3d.video.generate import sample_generator
from vfusion3d.world.sources import ProceduralObjects, RandomPrimitives

SIZE = 64


def colour(images):
    return images.mean(dim=(2, 3))


def corner(images):
    """Image features that tell a mirrored picture from the picture itself."""
    return images[:, :, :, : images.shape[-1] // 2].mean(dim=(2, 3))


# The filter on held-out judgements


def test_held_out_scores_are_of_filters_that_did_not_learn_from_the_video():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 5))
    good = rng.permutation(np.arange(120) < 72)  # labels that nothing in the features tells
    scores = held_out_scores(features, good, folds=4, repeats=3)
    assert scores.shape == (3, 120)
    assert abs(np.mean([report(row, good).auc for row in scores]) - 0.5) < 0.1
    told = held_out_scores(features, features[:, 0] > 0.2, folds=4, repeats=2)
    assert report(told[0], features[:, 0] > 0.2).accuracy > 0.85
    assert not np.array_equal(told[0], told[1])
    assert np.array_equal(told, held_out_scores(features, features[:, 0] > 0.2, folds=4, repeats=2))
    with pytest.raises(ValueError, match="1 good and 119 bad labels: to hold some out"):
        held_out_scores(features, np.arange(120) == 3)
    assert np.isfinite(held_out_scores(features[:6], np.arange(6) < 3)).all()  # in three parts


# The elevation


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects") / "data"
    return MultiviewShards(render_dataset(folder, ProceduralObjects(("car", "mug")), 3, views=32, size=SIZE).parent)


def test_an_orbit_of_32_views_gives_groups_of_4_uniform_views_and_their_mirror_images(objects):
    from vfusion3d.data.images import on_white

    seen, elevations = orbit_features(corner, objects, SIZE, groups=2)
    assert seen.shape == (3, 4, 3)
    assert elevations.tolist() == [objects.metadata(i)["elevation"] for i in range(3)]
    views = on_white(objects[1].rgba)
    for group, chosen in enumerate(([0, 8, 16, 24], [4, 12, 20, 28])):
        assert np.allclose(seen[1, group], corner(views[chosen]).mean(0), atol=1e-5)
        assert np.allclose(seen[1, 2 + group], corner(views[chosen].flip(-1)).mean(0), atol=1e-5)
    with pytest.raises(ValueError, match="has 32 views, not 9 x 4"):
        orbit_features(corner, objects, SIZE, groups=9)


def test_procedural_objects_are_seen_from_elevations_all_over_the_range(objects):
    seen, elevations = elevation_samples(colour, objects, 32, seed=0)
    assert seen.shape == (3 * 2 * (ORBITS + OTHERS * 3), 3)  # mirrored; of each other object two orbits, and a cluster
    own, others = np.split(elevations, [3 * 2 * ORBITS])
    steps = np.floor(own.reshape(3, 2, ORBITS) / (math.pi / 4) * ORBITS)
    assert (steps == np.arange(ORBITS)).all()
    two, one = np.split(others.reshape(3 * OTHERS, 6), [4], axis=1)  # an object's orbits and a cluster's, each twice
    assert np.array_equal(two[:, :2], two[:, 2:])
    assert np.array_equal(np.floor(two[:, :2] / (math.pi / 8)), np.tile([0, 1], (3 * OTHERS, 1)))
    assert np.array_equal(one[:, 0], one[:, 1])
    assert len(np.unique(one)) == 3 * OTHERS
    again, _ = elevation_samples(colour, objects, 32, seed=0)
    assert np.array_equal(seen, again)
    other, _ = elevation_samples(colour, objects, 32, seed=1)
    assert not np.array_equal(seen, other)


def test_an_orbit_rendered_again_shows_the_object_that_is_stored(objects):
    from vfusion3d.data.images import on_white

    seen, elevations = elevation_samples(colour, objects, SIZE, seed=0)
    for place in range(3):
        stored = colour(on_white(objects[place].rgba)).mean(0).numpy()
        nearest = np.abs(elevations[2 * ORBITS * place :][:ORBITS] - objects.metadata(place)["elevation"]).argmin()
        distance = np.abs(seen[: 3 * 2 * ORBITS].reshape(3, 2 * ORBITS, 3)[:, nearest] - stored).sum(axis=1)
        assert distance.argmin() == place
        assert distance[place] < 0.03


def test_objects_that_cannot_be_built_again_are_seen_as_they_are_stored(tmp_path):
    folder = render_dataset(tmp_path / "data", RandomPrimitives(), 2, views=16, size=32).parent
    shards = MultiviewShards(folder)
    seen, elevations = elevation_samples(colour, shards, 32, seed=0)
    assert seen.shape == (2 * 8, 3)
    assert elevations.tolist() == [shards.metadata(i)["elevation"] for i in range(2) for _ in range(8)]


def test_patch_features_say_where_something_is_and_the_class_token_comes_from_the_same_network():
    smoke = load_profile("smoke")
    images = torch.ones(2, 3, SIZE, SIZE)
    images[0, :, :16, :16] = images[1, :, 48:, 48:] = 0
    cells = patch_features(smoke)(images).unflatten(1, (16, -1))
    assert image_features(smoke)(images).shape == (2, cells.shape[2])
    difference = (cells[0] - cells[1]).norm(dim=1)
    assert sorted(difference.argsort(descending=True)[:2].tolist()) == [0, 15]  # upper left, lower right


# What is learned once


def test_a_model_is_learned_again_only_where_what_it_was_learned_from_has_changed(tmp_path):
    rng, times = np.random.default_rng(0), []
    features = rng.normal(size=(40, 3))

    def learn():
        times.append(1)
        return train_elevation(features, features[:, 0], epochs=2)

    path = tmp_path / "elevation.skops"
    first = learned(path, {"data": "a", "samples": (1, 2)}, learn)
    kept = learned(path, {"data": "a", "samples": (1, 2)}, learn)
    assert len(times) == 1
    assert np.array_equal(first.predict(features), kept.predict(features))
    learned(path, {"data": "b", "samples": (1, 2)}, learn)
    assert len(times) == 2
    path.with_suffix(".json").unlink()  # as after a kill between the two files
    learned(path, {"data": "b", "samples": (1, 2)}, learn)
    assert len(times) == 3


# Masks


def test_the_overlap_of_masks_is_the_intersection_over_the_union():
    ours, true = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    ours[0, :, :4], true[0, :, 2:6] = 1, 0.6  # 2 of 6 rows
    ours[1], true[1] = 0.4, 0  # both empty
    ours[2, :, :, :4] = 1
    assert mask_iou(ours, true).tolist() == pytest.approx([1 / 3, 1, 0])


def test_patches_stay_clear_of_the_object_and_do_not_change_the_mask():
    images, alpha = torch.ones(8, 3, SIZE, SIZE), torch.zeros(8, 1, SIZE, SIZE)
    alpha[..., 20:44, 20:44] = 1
    images = images * (1 - alpha) + 0.3 * alpha
    patched = with_patches(images, alpha, torch.Generator().manual_seed(0))
    changed = (patched != images).any(1)
    assert (changed.flatten(1).sum(1) > 0).float().mean() > 0.7
    assert not changed[:, 18:46, 18:46].any()
    assert mask_iou(unlike_the_background(patched), alpha).min() > 0.95
    assert mask_iou((patched.amin(1, keepdim=True) < 0.94).float(), alpha).mean() < 0.97  # which tells that it matters


# The command


def make_run(run_dir, count=8):
    """3D data, and videos of which the first half turn like the truth and the others stand still in noise."""
    from vfusion3d.stand_ins.truth import true_orbit

    render_dataset(run_dir / "data" / "train_3d", ProceduralObjects(), 4, views=16, size=32)
    prompts = [f"a {shade} {thing}" for shade in ("red", "blue") for thing in ("car", "chair", "teapot", "sofa")]
    rng = np.random.default_rng(0)
    for shard in range(2):
        with ShardWriter(shard_path(run_dir / "data" / "synthetic", shard)) as writer:
            for index in range(shard * count // 2, (shard + 1) * count // 2):
                frames = true_orbit(prompts[index], 0, index, 16, 32)[0]
                if index % 2:
                    frames = (frames[:1] + 0.5 * torch.from_numpy(rng.normal(size=frames.shape)).float()).clamp(0, 1)
                    frames[0] = rendered_prompts([prompts[index]], sample_generator(0, index), 32)[0]
                pixels = (frames * 255).byte().permute(0, 2, 3, 1).numpy()
                writer.write(f"{index:08d}", encode_video(pixels, prompts[index], {"index": index, "frames": 16}))
    write_index(run_dir / "data" / "synthetic", settings={"seed": 0, "text_to_image": "stand-in"})


def curate(run_dir, *options) -> int:
    return main(["curate", "--profile", "smoke", "--run-dir", str(run_dir), *map(str, options)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    make_run(run_dir)
    assert curate(run_dir) == 0
    return run_dir


def test_the_command_judges_learns_and_labels_every_video(run, capsys):
    videos = VideoShards(run / "data" / "synthetic")
    judgements = Judgements(run / "curation" / "judgements.csv", videos)
    assert [judgements.get(key).good for key in videos.keys] == 4 * [True, False]
    labelled = SyntheticShards(videos.folder, run / "data" / "labels", threshold=None)
    assert [facts["score"] >= 0 for facts in labelled.facts] == 4 * [True, False]
    assert all(0 <= facts["elevation"] <= math.pi / 4 for facts in labelled.facts)
    before = (run / "curation" / "elevation.skops").stat().st_mtime_ns
    assert curate(run) == 0  # nothing is left to do
    assert "the filter keeps 4 of 8 videos" in capsys.readouterr().out
    assert (run / "curation" / "elevation.skops").stat().st_mtime_ns == before


def test_a_judged_video_is_scored_by_filters_that_did_not_learn_from_it(run, tmp_path, monkeypatch):
    videos, shards = VideoShards(run / "data" / "synthetic"), MultiviewShards(run / "data" / "train_3d")
    judgements, profile = Judgements(tmp_path / "some.csv", videos), load_profile("smoke")
    for place, key in enumerate(videos.keys[:6]):
        judgements.judge(key, place % 3 == 0, "ann")  # of the two good ones one turns and one stands still
    labeller, settings = new_labeller(profile, tmp_path, videos, judgements, shards, 3)
    averaged, good = judged_features(image_features(profile), videos, judgements)
    wanted = held_out_scores(averaged, good, seed=3).mean(axis=0)
    assert labeller.held_out == {(videos.fingerprint, videos.keys[place]): wanted[place] for place in range(6)}
    assert np.abs(wanted - quality_scores(labeller.quality, averaged)).min() > 0.01
    with monkeypatch.context() as patch:
        patch.setattr("vfusion3d.curation.curate.judged_features", None)  # all is there
        again, same = new_labeller(profile, tmp_path, videos, judgements, shards, 3)
    assert again.held_out == labeller.held_out
    assert same == settings
    judgements.judge(videos.keys[0], False, "ann")  # one good one left: none can be held out
    assert not new_labeller(profile, tmp_path, videos, judgements, shards, 3)[0].held_out


def test_labels_that_the_filter_gave_to_what_it_learned_from_are_not_taken_for_held_out_ones(run, tmp_path):
    videos, shards = VideoShards(run / "data" / "synthetic"), MultiviewShards(run / "data" / "train_3d")
    judgements = Judgements(run / "curation" / "judgements.csv", videos)
    labeller, settings = new_labeller(load_profile("smoke"), run / "curation", videos, judgements, shards)
    earlier = {**settings, "quality": {k: v for k, v in settings["quality"].items() if k != "held_out"}}
    label_videos(videos.folder, tmp_path / "labels", labeller, settings=earlier)
    with pytest.raises(ValueError, match=r"made with other settings \(quality\.held_out: None there"):
        label_videos(videos.folder, tmp_path / "labels", labeller, settings=settings)


def test_parts_of_the_command_write_what_the_whole_does(run, tmp_path, capsys):
    whole = Shards(run / "data" / "labels").fingerprint
    os.rename(run / "data" / "labels", tmp_path / "labels")
    assert curate(run, "--shard", 1, "--shards", 2) == 0
    assert "the other parts are still to be made" in capsys.readouterr().out
    assert curate(run, "--shard", 0, "--shards", 2) == 0
    assert Shards(run / "data" / "labels").fingerprint == whole


def test_judgements_of_a_person_make_another_filter_and_labels_only_with_overwrite(run, tmp_path, capsys):
    videos = VideoShards(run / "data" / "synthetic")
    mine = Judgements(tmp_path / "mine.csv", videos)
    for place, key in enumerate(videos.keys):
        mine.judge(key, bool(place % 2), "ann")  # the other way round
    assert curate(run, "--judgements", mine.path) == 1
    assert "judgements" in capsys.readouterr().err
    assert curate(run, "--judgements", mine.path, "--overwrite") == 0
    scores = np.array([one["score"] for one in Shards(run / "data" / "labels").index["labels"]])
    assert scores[1::2].min() > scores[::2].max()
    assert curate(run, "--overwrite") == 0  # leave the run as it was


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--judgements", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--judgements", "{here}/bad.csv"], "bad.csv, line 2: there is no video '7'"),
    ],
)
def test_judgements_that_cannot_be_used_are_named(run, tmp_path, capsys, options, complaint):
    fingerprint = VideoShards(run / "data" / "synthetic").fingerprint
    (tmp_path / "bad.csv").write_text(f"key,good,judge,videos\n7,yes,ann,{fingerprint}\n")
    assert curate(run, *(option.format(here=tmp_path) for option in options)) == 1
    assert complaint in capsys.readouterr().err


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path, capsys):
    assert curate(tmp_path) == 1
    assert "`vfusion3d render --profile smoke" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        curate(tmp_path, "--shard", 3, "--shards", 3)


def test_a_video_with_a_missing_frame_is_named_and_what_was_labelled_before_is_kept(tmp_path, capsys):
    make_run(tmp_path)
    assert curate(tmp_path) == 0
    labels, folder = tmp_path / "data" / "labels", tmp_path / "data" / "synthetic"
    (labels / "index.json").unlink()
    (labels / "shard-000001.tar").unlink()
    index = json.loads((folder / "index.json").read_text())
    del index["shards"][1]["samples"][2]["members"]["frame05.jpg"]
    (folder / "index.json").write_text(json.dumps(index))
    assert curate(tmp_path) == 1
    complaint = capsys.readouterr().err
    assert "shard-000001.tar, sample 00000006 is damaged" in complaint
    assert "5" in complaint
    assert (labels / "shard-000000.tar").exists()


def test_videos_are_judged_in_a_random_order_that_the_seed_fixes():
    keys = list(range(50))
    assert videos_to_judge(keys, 20, 0) == videos_to_judge(keys, 20, 0)
    assert videos_to_judge(keys, 20, 0) != videos_to_judge(keys, 20, 1)
    assert sorted(videos_to_judge(keys, 99, 0)) == keys


def test_the_stored_labeller_is_named_by_its_files_and_a_missing_one_by_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(MissingArtifact, match=r"quality\.skops does not exist yet.*notebook 05_filter_and_label"):
        stored_labeller(Roles(load_profile("smoke")), tmp_path)
    folder = tmp_path / "curation"
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    save_model(train_filter(features, features[:, 0] > 0), folder / QUALITY)
    save_model(train_elevation(features, features[:, 1], decay=1.0, epochs=1), folder / ELEVATION)
    labeller, settings = stored_labeller(Roles(load_profile("smoke")), tmp_path)
    assert np.array_equal(quality_scores(labeller.quality, features) >= 0, features[:, 0] > 0)
    save_model(train_filter(features, features[:, 0] > 0.5), folder / QUALITY)
    other = stored_labeller(Roles(load_profile("smoke")), tmp_path)[1]
    (difference,) = changes(record(settings), other)
    assert difference.startswith("quality: ")
    (difference,) = changes(record(other), stored_labeller(Roles(profile_with(image_features="stand-in")), tmp_path)[1])
    assert difference == "features: mini there, stand-in now"
