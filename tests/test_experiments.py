"""The variants of Tables 3 to 6 and Figure 7: what may stand in their file, what they share, what their scores say."""

import dataclasses
import itertools
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_kills import after_changes, child, contents

from vfusion3d import VFusion3D, cameras
from vfusion3d.cli.main import main
from vfusion3d.curation.labels import Labeller, label_videos
from vfusion3d.data.shards import MultiviewShards, ShardWriter, encode_sample, encode_video, shard_path, write_index
from vfusion3d.data.subset import Subset
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.evaluation.tables import paper_table, write_scores
from vfusion3d.experiments import run
from vfusion3d.experiments.data import finetuning_data, good_videos, score_objects
from vfusion3d.experiments.plan import ALL_VIDEOS, finetuning, planned_runs, planned_table, pretraining
from vfusion3d.experiments.results import Claim, in_words, table_rows, verdicts
from vfusion3d.experiments.run import Result, read_result, run_variant
from vfusion3d.experiments.scaling import errors_of, fit_power_law, power_law, scaling_figure
from vfusion3d.experiments.significance import compare, holm, seeds_needed
from vfusion3d.experiments.variants import (
    VARIANTS,
    Finetuning,
    Variant,
    changed,
    in_steps,
    load_experiments,
    seeds_of,
)
from vfusion3d.foundations.loading import BUNDLED
from vfusion3d.foundations.roles import Roles
from vfusion3d.learning import processes
from vfusion3d.runs import layout
from vfusion3d.runs.claim import SETTINGS
from vfusion3d.runs.profiles import LossWeights, ProfileError, Recipe, Stage, load_profile
from vfusion3d.training.schedule import stage_ends, total_steps
from vfusion3d.training.train import train_vfusion3d

ROOT = Path(__file__).resolve().parents[1]
VIEWS, SIZE, VIDEOS = 8, 64, 12
SMOKE, PAPER = load_profile("smoke"), load_profile("paper")
SHORT = dataclasses.replace(
    SMOKE.training,
    batch_size=1,
    views=2,
    patch_size=32,
    samples_per_ray=8,
    stages=(Stage(32, 1),),
    restart_after_stage=None,
    max_steps=1,
)
PROFILE = dataclasses.replace(
    SMOKE,
    training=SHORT,
    finetuning=SHORT,
    data=dataclasses.replace(SMOKE.data, objects_3d=3, eval_prompts=2),
    scale_3d=100_000 / 3,
)


# ------------------------------------------------------------------------------------------------ the file of variants


def test_every_published_row_has_a_variant_under_the_paper_s_name():
    tables = load_experiments().tables
    for name in ("table_3", "table_4", "table_5", "table_6"):
        first, *rows = [row for row in tables[name] if not row.startswith("3D data, ")]
        assert rows == [row["name"] for row in paper_table(name).rows]
        assert tables[name][first] == "before_training"
    assert len(tables["figure_7"]) == 1 + 5


def test_the_strategies_are_added_one_after_the_other():
    experiments = load_experiments()
    rows = [experiments.variant(name).at(PAPER).training.on(500_000) for name in experiments.of_table("table_4")[1:]]
    switches = [(r.multi_stage, r.losses.mse, r.losses.opacity, r.camera_noise) for r in rows]
    assert switches == [(False, 1, 0, 0), (True, 1, 0, 0), (True, 0, 0, 0), (True, 0, 1, 0), (True, 0, 1, 0.02)]
    assert rows[-1] == PAPER.training
    assert len({total_steps(recipe, 500_000) for recipe in rows}) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"vidoes": 3}, r"mine\.yaml: unknown key variants\.x\.vidoes; the nearest known one is variants\.x\.videos"),
        ({"videos": "many"}, r"x\.videos must be of type int, not 'many'"),
        ({"videos": 0}, r"x: videos must be at least 1"),
        ({"recipe": {"losses": {"msee": 1.0}}}, r"x: unknown key recipe\.losses\.msee; .* recipe\.losses\.mse"),
        ({"recipe": {"samples_per_ray": 9}}, r"x: recipe: samples_per_ray must be even"),
        ({"recipe": {"samples_per_ray": 6}}, r"x: recipe: samples_per_ray must be even and at least 8, not 6"),
        ({"data": "4d"}, r"x\.data must be one of synthetic, 3d, not '4d'"),
        ({"data": "3d", "videos": 3}, r"x: videos: there are no videos where data is 3d"),
        ({"videos": 3, "generated": 3}, r"x: generated and videos: .*not both"),
        ({"video_objects": 3}, r"x: video_objects: say in `generated`"),
        ({"start": "y", "finetuning": {"objects": 1}}, r"x: start: there is no variant 'y'"),
        ({"start": "x"}, r"x: start: .*say in `finetuning`"),
        ({"start": "z", "videos": 3, "finetuning": {"objects": 1}}, r"x: start: z is trained already"),
        ({"finetuning": {"objects": 1, "chosen": "best"}}, r"x\.finetuning\.chosen must be one of aesthetic, random"),
        ({"untrained": True, "videos": 3}, r"x: untrained: nothing is trained"),
        ({"steps_of": "y"}, r"x: steps_of: y does not exist"),
        ({"steps_of": "z", "part": True}, r"x: steps_of: z says how many steps"),
        ({"finetuning": {"objects": 0}}, r"x\.finetuning: objects and views must be at least 1"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_by_its_name(tmp_path, line, complaint):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"variants": {"x": line}, "tables": {}}))
    with pytest.raises(ProfileError, match=complaint):
        load_experiments(file)


@pytest.mark.parametrize("between", [{}, {"z": {"steps_of": "w"}, "w": {"start": "x", "finetuning": {"objects": 1}}}])
def test_variants_that_wait_for_one_another_are_refused_by_their_names(tmp_path, between):
    file = tmp_path / "mine.yaml"
    other = {"start": "z" if between else "x", "finetuning": {"objects": 1}}
    file.write_text(yaml.safe_dump({"variants": {"x": {"steps_of": "y"}, "y": other, **between}, "tables": {}}))
    with pytest.raises(ProfileError, match="in a circle") as refused:
        load_experiments(file)
    named = str(refused.value).removeprefix(f"{file}: ").split(":")[0].split(", ")
    assert sorted(named) == sorted({"x", "y", *between})


def test_a_row_without_its_variant_and_unknown_names_are_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"variants": {"x": {}}, "tables": {"table_3": {"10K": "y"}}}))
    with pytest.raises(ProfileError, match=r"tables\.table_3\.10K: there is no variant 'y'"):
        load_experiments(file)
    with pytest.raises(ProfileError, match=r"no variant 'basline': choose of .*baseline"):
        load_experiments().variant("basline")


def test_a_recipe_s_changes_leave_the_rest_as_it_is():
    new = changed(SMOKE.training, {"losses": {"opacity": 0.0}, "camera_noise": 0.1})
    wanted = dataclasses.replace(SMOKE.training, losses=LossWeights(lpips=1.0, opacity=0.0, mse=0.0), camera_noise=0.1)
    assert new == wanted
    assert changed(SMOKE.training, {}) == SMOKE.training


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_a_bounded_recipe_takes_exactly_so_many_steps_and_divides_them_as_before(steps):
    recipe = load_profile("laptop").training
    for samples in (1, 3, 10, 33, 240, 2_700_000):
        short = in_steps(recipe, steps, samples)
        assert total_steps(short, samples) == steps
        ends = zip(stage_ends(short, steps), stage_ends(recipe, steps), strict=True)
        assert all(abs(end - before) <= 1 for end, before in ends)  # half a step may go either way


def test_only_trainings_on_a_part_of_the_data_are_bounded_and_fewer_objects_take_no_fewer_steps():
    laptop, experiments = load_profile("laptop"), load_experiments()
    bound = laptop.experiments.steps
    part, whole = experiments.variant("synthetic_100k"), experiments.variant("synthetic")
    assert total_steps(part.at(laptop).training.on(10), 10) == bound
    assert whole.at(laptop).training.on(240) == laptop.training
    assert part.at(PAPER).training.on(100_000) == PAPER.training
    everything, finetuning = laptop.data.objects_3d, experiments.variant("finetuned_10k").at(laptop).finetuning
    assert finetuning.on(everything) == laptop.finetuning
    assert total_steps(finetuning.on(10), 10) == total_steps(laptop.finetuning, everything)


def test_runs_come_after_what_they_start_from_and_none_twice():
    experiments, three = load_experiments(), dataclasses.replace(PAPER.experiments, scaling_seeds=3)
    profile = dataclasses.replace(PAPER, experiments=three)
    runs = experiments.runs(profile, ["table_6", "table_5", "figure_7"])
    assert len(set(runs)) == len(runs)
    for place, (name, seed) in enumerate(runs):
        variant = experiments.variant(name)
        assert all((other, seed) in runs[:place] for other in (variant.start, variant.steps_of) if other)
    assert [seed for name, seed in runs if name == "synthetic_300k"] == seeds_of(profile, "figure_7") == [0, 1, 2]
    assert [seed for name, seed in runs if name == "only_3d"] == [0]
    assert experiments.runs(PAPER, ["finetuned_10k"], 4, 1) == [("synthetic", 4), ("finetuned_10k", 4)]


def test_the_plan_of_the_paper_has_the_paper_s_counts():
    table = planned_table(planned_runs(PAPER, ["table_3", "table_6"])).set_index("variant")
    assert table.loc["engine_10k", ["own videos", "video model's objects"]].tolist() == [500_000, 10_000]
    assert table.loc["engine_100k", "own videos"] == ""
    assert table.loc["synthetic", ["videos", "steps"]].tolist() == [2_700_000, -(-30 * 2_700_000 // 1024)]
    assert table.loc["finetuned_100k", ["start", "objects"]].tolist() == ["synthetic", 100_000]
    # of the 500,000 videos of each row as many are good as Table 3 says: 44.5%, 52.1% and 61.3%
    good = [table.loc[f"engine_{objects}", "videos"] for objects in ("10k", "50k", "100k")]
    assert good == [222_500, 260_500, 306_500]


def test_what_two_variants_share_is_one_training_in_the_plan_too():
    def trainings(profile, name, **shares):
        (*_, run) = planned_runs(profile, [name], seeds=1, shares=shares)
        return run.trainings

    # at full size the whole recipe on all good videos is the model of notebook 06, whose fine-tuning is that of 07
    assert trainings(PAPER, "synthetic_2700k") == trainings(PAPER, "synthetic") == (pretraining(PAPER),)
    assert trainings(PAPER, "finetuned_100k") == (pretraining(PAPER), finetuning(PAPER))
    laptop = load_profile("laptop")  # where the trainings on a part are bounded, and that one with them
    assert trainings(laptop, "synthetic_2700k") != trainings(laptop, "synthetic")
    # with fewer good videos than a point of Figure 7 asks for, it is trained on all there are
    assert trainings(laptop, "synthetic_1000k") != trainings(laptop, "synthetic_2700k")
    few = {ALL_VIDEOS: 0.1}
    assert trainings(laptop, "synthetic_1000k", **few) == trainings(laptop, "synthetic_2700k", **few)


# --------------------------------------------------------------------------------------------------------------- data


def write_objects(folder: Path, count: int) -> Path:
    """Objects of one colour each: object i shows i in red and the view's number in green."""
    orbit = cameras.orbit_cameras(VIEWS, 0.3)
    with ShardWriter(shard_path(folder, 0)) as writer:
        for index in range(count):
            rgba = np.full((VIEWS, SIZE, SIZE, 4), 255, np.uint8)
            rgba[..., 0], rgba[..., 1] = index, np.arange(VIEWS)[:, None, None]
            rgba[:, :16, :, 3] = 0
            known = {"category": "mug", "common": index % 2 == 0, "elevation": 0.3}
            members = encode_sample(rgba, orbit, cameras.default_intrinsics(VIEWS), "a red mug", known)
            writer.write(f"object{index}", members)
    write_index(folder)
    return folder


class Judge:
    """Stands for a filter and an elevation model: reads brightness off the features."""

    def __init__(self, border):
        self.border = border

    def decision_function(self, features):
        return features.mean(axis=1) - self.border

    def predict(self, features):
        return features.mean(axis=1)


def mean_colour(images):
    return images.mean(dim=(2, 3))


def everything(images):
    return torch.ones(len(images), 1, *images.shape[-2:])


def write_videos(videos: Path, labels: Path, border: float, frames: int = VIEWS) -> None:
    """Grey videos, ever brighter: video i has brightness i / VIDEOS, and the filter keeps those above the border."""
    with ShardWriter(shard_path(videos, 0)) as writer:
        for index in range(VIDEOS):
            grey = np.full((frames, SIZE, SIZE, 3), index * 255 // VIDEOS, np.uint8)
            known = {"index": index, "prompt": "a red mug"}
            writer.write(f"{index:08d}", encode_video(grey, "a red mug", known))
    write_index(videos, settings={"seed": 0, "text_to_image": "stand-in", "shard_size": 100})
    label_videos(videos, labels, Labeller(mean_colour, Judge(border), Judge(0), everything), settings={})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run's folder with 3D data, test objects, and synthetic videos of which the filter keeps the 6 brightest."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    write_objects(layout.objects_3d(run_dir), 3)
    write_objects(layout.test_data(run_dir), 2)
    write_videos(layout.synthetic_data(run_dir), layout.synthetic_labels(run_dir), 0.49)
    return run_dir


def test_a_subset_reads_what_it_names_and_no_more(made):
    shards = MultiviewShards(layout.objects_3d(made))
    part = Subset(shards, [2, 0], views=range(0, VIEWS, 2))
    assert len(part) == 2
    assert part.keys == ["object2", "object0"]
    assert part[0].rgba[:, 0].unique().tolist() == [2]
    assert part[1].rgba[:, 1, 0, 0].tolist() == [0, 2, 4, 6]
    assert part.read(1, [3, 1]).rgba[:, 1, 0, 0].tolist() == [6, 2]
    assert torch.equal(part.read(0, [1]).cam2world, shards[2].cam2world[[2]])
    assert part.metadata(1) == shards.metadata(0)
    assert part.picture_names(0) == shards.picture_names(2)[::2]
    assert Subset(shards, [1]).read(0).key == "object1"


def test_subsets_with_other_samples_order_or_views_are_other_data(made):
    shards = MultiviewShards(layout.objects_3d(made))
    parts = [Subset(shards, [0, 1]), Subset(shards, [1, 0]), Subset(shards, [0, 2]), Subset(shards, [0, 1], [0, 1])]
    assert len({part.fingerprint for part in [*parts, shards]}) == 5
    assert Subset(shards, [0, 1]).fingerprint == parts[0].fingerprint


@pytest.mark.parametrize(
    ("indices", "complaint"), [([], "has no samples"), ([0, 0], "names a sample twice"), ([3], "samples 0 to 2")]
)
def test_a_subset_that_cannot_be_is_refused(made, indices, complaint):
    with pytest.raises(ValueError, match=complaint):
        Subset(MultiviewShards(layout.objects_3d(made)), indices)


def test_the_parts_of_a_seed_lie_inside_each_other_and_hold_only_what_the_filter_kept(made):
    folders = layout.synthetic_data(made), layout.synthetic_labels(made)
    whole = SyntheticShards(*folders)
    assert len(whole) == 6
    parts = [good_videos(*folders, seed=3, wanted=count).shards.keys for count in (1, 2, 4)]
    for small, large in itertools.pairwise(parts):
        assert small == large[: len(small)]
    assert set(parts[-1]) < set(whole.keys)
    draws = {tuple(good_videos(*folders, seed=seed, wanted=2).shards.keys) for seed in range(8)}
    assert len(draws) > 1


def test_all_good_videos_are_the_data_of_notebook_06(made):
    folders = layout.synthetic_data(made), layout.synthetic_labels(made)
    for wanted in (None, 6, 270):
        data = good_videos(*folders, seed=3, wanted=wanted)
        assert data.shards.fingerprint == SyntheticShards(*folders).fingerprint
        assert (data.generated, data.good) == (VIDEOS, 6)


def test_videos_counted_before_the_filter_are_filtered_too(made):
    folders = layout.synthetic_data(made), layout.synthetic_labels(made)
    data = good_videos(*folders, seed=0, generated=9)
    assert data.generated == 9
    assert 3 <= data.good <= 6
    assert set(data.shards.keys) <= set(SyntheticShards(*folders).keys) or data.good < 4
    assert data.good == sum(key in SyntheticShards(*folders).keys for key in data.shards.keys)


def test_where_the_filter_keeps_nothing_the_best_four_are_taken_and_counted_as_bad(tmp_path):
    write_videos(tmp_path / "videos", tmp_path / "labels", border=2.0)
    data = good_videos(tmp_path / "videos", tmp_path / "labels", seed=0)
    assert data.good == 0
    assert sorted(data.shards.keys) == [f"{index:08d}" for index in range(VIDEOS - 4, VIDEOS)]


def test_objects_are_ranked_by_the_score_of_their_views(made, monkeypatch):
    shards = MultiviewShards(layout.objects_3d(made))

    def redness(images):
        assert images.ndim == 5
        return images[:, :, 0].mean(dim=(1, 2, 3))

    assert score_objects(redness, shards, batch=2).argsort().tolist() == [0, 1, 2]
    monkeypatch.setattr("vfusion3d.foundations.aesthetic_score.aesthetic_score", lambda profile: redness)

    def objects(*asked, seed=0, **more):
        return finetuning_data(Roles(PROFILE), made, Variant(finetuning=Finetuning(*asked, **more)).at(PROFILE), seed)

    assert objects(60_000).keys == ["object2", "object1"]
    assert objects(100_000).keys == shards.keys
    assert objects(60_000, views=4)[0].rgba[:, 1, 0, 0].tolist() == [0, 2, 4, 6]
    assert len({tuple(objects(60_000, "random", seed=seed).keys) for seed in range(9)}) > 1
    with pytest.raises(ValueError, match="8 views of an object, of which no 3"):
        objects(60_000, views=3)


# ------------------------------------------------------------------------------------------------------------ running


@pytest.fixture
def evaluations(monkeypatch):
    """Evaluation that only counts: the models it was asked about."""
    asked = []

    def evaluate(profile, run_dir, model):
        asked.append(model)
        return pd.DataFrame({"test": ["3d"], "key": ["007"], "lpips": [0.5]}).reindex(columns=list(run.SCORE_COLUMNS))

    monkeypatch.setattr(run, "evaluate_variant", evaluate)
    return asked


@pytest.fixture
def run_dir(made, tmp_path) -> Path:
    """The data of `made` in a run of its own."""
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "data").symlink_to(made / "data")
    return folder


def test_what_notebooks_06_and_07_trained_is_only_evaluated(run_dir, evaluations):
    data = SyntheticShards(layout.synthetic_data(run_dir), layout.synthetic_labels(run_dir))
    model = train_vfusion3d(PROFILE, data, layout.pretrained_model(run_dir))
    objects = layout.objects_3d(run_dir)
    train_vfusion3d(PROFILE, objects, layout.finetuned_model(run_dir), recipe=PROFILE.finetuning, model=model)

    both = run_variant(PROFILE, run_dir, "finetuned_100k")
    assert both.model == layout.finetuned_model(run_dir) / "model"
    assert read_result(run_dir, "synthetic").model == layout.pretrained_model(run_dir) / "model"
    assert not list((run_dir / "experiments").glob("*/seed-*/*/model"))
    assert len(evaluations) == 2
    assert both.scores["key"].tolist() == ["007"]  # as it was evaluated, so that scores can be compared with new ones
    assert both.facts["videos"] == 6
    assert both.facts["objects"] == 3

    run_variant(PROFILE, run_dir, "finetuned_100k")
    assert len(evaluations) == 2  # nothing is evaluated twice
    other = dataclasses.replace(PROFILE, experiments=dataclasses.replace(PROFILE.experiments, views=7))
    run_variant(other, run_dir, "synthetic")
    assert len(evaluations) == 3  # but anew where the test is another

    elsewhere = run_variant(PROFILE, run_dir, "synthetic", seed=1)  # another seed is another training
    assert elsewhere.model == layout.experiment(run_dir, "synthetic", 1) / "trained" / "model"


def test_before_training_is_the_very_model_that_trainings_begin_with_and_its_scores_are_made_once(run_dir, evaluations):
    first, second = (run_variant(PROFILE, run_dir, "before_training", seed) for seed in (0, 1))
    weights = load_file(first.model / "diffusion_pytorch_model.safetensors")
    start = VFusion3D.from_pretrained("base").state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in weights.items())
    assert first.facts == {"steps": 0}
    assert len(evaluations) == 1  # `base` is the same whatever the seed
    assert second.scores.equals(first.scores)


def test_a_model_before_training_is_saved_once_by_however_many_commands_at_once(tmp_path, monkeypatch):
    saved, save = [], VFusion3D.save_pretrained

    def slowly(model, folder):
        saved.append(folder)
        time.sleep(0.3)
        save(model, folder)

    monkeypatch.setattr(VFusion3D, "save_pretrained", slowly)
    with ThreadPoolExecutor(3) as commands:
        folders = list(
            commands.map(lambda seed: run._untrained(PROFILE, tmp_path / "seed-0" / "untrained", 0), range(3))
        )
    assert len(saved) == 1
    (folders[0] / SETTINGS).unlink()  # as it was saved before there was a record
    VFusion3D.from_pretrained(run._untrained(PROFILE, folders[0], 0))
    assert len(saved) == 2


@pytest.mark.parametrize(
    ("process", "done"),
    [
        ((0, 1), [(0, 1), "waited", "waited"]),
        ((0, 2), [(0, 2), "waited", (0, 1), "waited"]),
        ((1, 2), [(1, 2), "waited", "waited"]),
    ],
)
def test_after_all_parts_are_made_the_main_process_sees_that_the_whole_is_there(monkeypatch, process, done):
    found = []
    monkeypatch.setattr(processes, "part_of_process", lambda: process)
    monkeypatch.setattr(processes, "wait_for_all", lambda: found.append("waited"))
    processes.in_parts(found.append)
    assert found == done


def test_3d_data_take_as_many_steps_as_what_they_are_compared_with(run_dir, evaluations):
    results = {name: run_variant(PROFILE, run_dir, name) for name in load_experiments().of_table("table_6")}
    steps = {name: one.facts["steps"] + one.facts.get("finetuning_steps", 0) for name, one in results.items()}
    assert steps["only_3d_as_synthetic"] == steps["synthetic"]
    assert steps["only_3d_as_both"] == steps["finetuned_100k"] == steps["synthetic"] + 1
    assert {one.facts.get("videos") for name, one in results.items() if "3d" in name[:7]} == {None}
    planned = {run.name: run for run in planned_runs(PROFILE, ["table_6"], shares={ALL_VIDEOS: 6 / 40})}
    for name in ("only_3d_as_synthetic", "only_3d_as_both", "synthetic"):
        assert sum(training.steps for training in planned[name].trainings) == steps[name]


def test_two_variants_of_the_same_settings_are_trained_once(run_dir, evaluations, tmp_path):
    file = tmp_path / "mine.yaml"
    variants = {"one": {"videos": 200_000}, "same": {"videos": 200_000, "recipe": {"camera_noise": 0.02}}}
    variants["other"] = {"videos": 200_000, "recipe": {"camera_noise": 0.0}}
    file.write_text(yaml.safe_dump({"variants": variants, "tables": {}}))
    results = {name: run_variant(PROFILE, run_dir, name, experiments=load_experiments(file)) for name in variants}
    assert results["one"].model == results["same"].model != results["other"].model
    weights = [(results[name].model / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] != weights[1]


@dataclasses.dataclass(frozen=True)
class DeepRecipe(Recipe):
    """The recipe of a version that has one switch more."""

    depth_loss: float = 0.0


def test_a_model_is_shared_after_a_new_switch_came_and_not_where_it_is_on(run_dir, evaluations, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    variants = {"one": {"data": "3d"}, "same": {"data": "3d"}, "deep": {"data": "3d", "recipe": {"depth_loss": 5.0}}}
    file.write_text(yaml.safe_dump({"variants": {"one": variants["one"]}, "tables": {}}))
    one = run_variant(PROFILE, run_dir, "one", experiments=load_experiments(file))
    monkeypatch.setattr("vfusion3d.experiments.variants.Recipe", DeepRecipe)
    file.write_text(yaml.safe_dump({"variants": variants, "tables": {}}))
    same, deep = (run_variant(PROFILE, run_dir, name, experiments=load_experiments(file)) for name in ("same", "deep"))
    assert same.model == one.model != deep.model
    assert len(evaluations) == 1  # the same weights (no code here knows the switch) have the same scores
    variants["one"] = variants["deep"]
    del variants["deep"]
    file.write_text(yaml.safe_dump({"variants": variants, "tables": {}}))
    shutil.rmtree(deep.model.parents[1])
    with pytest.raises(ValueError, match=r"training\.depth_loss: 0\.0 there, 5\.0 now"):
        run_variant(PROFILE, run_dir, "one", experiments=load_experiments(file))


def test_a_finished_variant_is_not_trained_again_and_a_stale_one_is_refused_or_made_anew(run_dir, evaluations):
    first = run_variant(PROFILE, run_dir, "only_3d")
    weights = first.model / "diffusion_pytorch_model.safetensors"
    stamp = weights.stat().st_mtime_ns
    run_variant(PROFILE, run_dir, "only_3d")
    assert weights.stat().st_mtime_ns == stamp
    assert not list(first.model.parent.glob("checkpoint*"))

    faster = dataclasses.replace(PROFILE, training=dataclasses.replace(SHORT, learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"training\.learning_rate: .* there, 0\.001 now"):
        run_variant(faster, run_dir, "only_3d")
    assert weights.stat().st_mtime_ns == stamp
    run_variant(faster, run_dir, "only_3d", overwrite=True)
    assert weights.stat().st_mtime_ns > stamp
    assert len(evaluations) == 2


def test_a_variant_that_was_killed_before_its_scores_goes_on_without_training(run_dir, evaluations, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "evaluate_variant", killed)
    with pytest.raises(KeyboardInterrupt):
        run_variant(PROFILE, run_dir, "only_3d")
    weights = layout.experiment(run_dir, "only_3d", 0) / "trained" / "model" / "diffusion_pytorch_model.safetensors"
    stamp = weights.stat().st_mtime_ns
    with pytest.raises(FileNotFoundError, match=r"vfusion3d experiment only_3d .*--seed 0"):
        read_result(run_dir, "only_3d")
    monkeypatch.undo()
    monkeypatch.setattr(
        run,
        "evaluate_variant",
        lambda *_: pd.DataFrame({"test": ["3d"], "key": ["007"], "lpips": [0.5]}).reindex(columns=[*run.SCORE_COLUMNS]),
    )
    assert run_variant(PROFILE, run_dir, "only_3d").scores["lpips"].tolist() == [0.5]
    assert weights.stat().st_mtime_ns == stamp


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
def test_a_variant_that_is_killed_again_and_again_comes_to_the_result_of_an_undisturbed_one(
    made, run_dir, evaluations, tmp_path
):
    whole = tmp_path / "whole" / "tiny"
    whole.mkdir(parents=True)
    (whole / "data").symlink_to(made / "data")
    changes = mmap.mmap(-1, 8)
    counted = after_changes(whole, 0, changes, None)
    assert child(lambda: run_variant(PROFILE, whole, "only_3d"), counted) == 0
    total = int.from_bytes(changes[:8])
    for moment in (total // 4, total // 2, total // 2):  # of what is still to be done
        changes[:8] = bytes(8)
        killed = after_changes(run_dir, moment, changes, lambda: os.kill(os.getpid(), signal.SIGKILL))
        if child(lambda: run_variant(PROFILE, run_dir, "only_3d"), killed) == 0:
            break
        assert int.from_bytes(changes[:8]) == moment
    assert child(lambda: run_variant(PROFILE, run_dir, "only_3d")) == 0
    assert contents(run_dir / "experiments") == contents(whole / "experiments")


def test_a_missing_data_set_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="notebook 04_generate_synthetic_data makes it"):
        run_variant(PROFILE, tmp_path, "synthetic")
    with pytest.raises(FileNotFoundError, match="notebook 01_render_3d_data makes it"):
        run_variant(PROFILE, tmp_path, "only_3d")


def test_both_tests_of_section_4_3_are_evaluated_on_the_same_questions(run_dir):
    from vfusion3d import VFusion3D

    profile = dataclasses.replace(PROFILE, experiments=dataclasses.replace(PROFILE.experiments, views=1))
    model = VFusion3D.from_pretrained("base")
    model.config = dataclasses.replace(model.config, samples_per_ray=8)
    scores = run.evaluate_variant(profile, run_dir, model)
    seen, told = scores[scores["test"] == "3d"], scores[scores["test"] == "text"]
    assert (len(seen), len(told)) == (2, 2)
    assert seen[["psnr", "ssim", "lpips"]].notna().all(axis=None)
    assert seen["clip_image"].isna().all()
    assert told[["clip_text", "clip_image"]].notna().all(axis=None)
    assert seen["common"].tolist() == [True, False]
    assert told["common"].tolist() == [True, False]  # evaluation prompts go round the halves


# ------------------------------------------------------------------------------------------------------------- results


def scores_of(seeds: int, metric: str = "ssim", **rows: list[float]) -> pd.DataFrame:
    """A metric of three objects by each method, of which every seed has a little more or less."""
    parts = [
        pd.DataFrame({"test": "3d", "key": list("abc"), metric: values, "method": row, "category": "mug"})
        .assign(seed=seed, common=True, clip_text=np.nan)
        .assign(**{metric: lambda part, seed=seed, row=row: part[metric] + (row == "100K") * 0.001 * (seed - 1)})
        for row, values in rows.items()
        for seed in range(seeds)
    ]
    return pd.concat(parts)


def test_a_claim_stands_beside_the_paper_s_difference():
    scores = scores_of(4, **{"100K": [0.2, 0.3, 0.41], "10K": [0.1, 0.2, 0.3]})
    found = verdicts(scores, [Claim("more is better", "100K", "10K", "ssim")], "table_3")
    assert found.loc[0, ["rows", "seeds", "items", "verdict"]].tolist() == ["100K minus 10K", 4, 3, "supported"]
    assert found["ours"][0].startswith("+0.1038 ± 0.00")
    words = in_words(found, SMOKE)
    assert "- **supported**: the numbers support that more is better (SSIM +0.1038" in words
    assert "undecided" not in words
    assert "only 3 test items" in words


def test_one_training_decides_nothing_however_large_the_difference():
    scores = scores_of(1, **{"100K": [0.8, 0.9, 0.85], "10K": [0.1, 0.2, 0.15]})
    found = verdicts(scores, [Claim("more is better", "100K", "10K", "ssim")], "table_3")
    assert found.loc[0, ["p", "seeds needed", "verdict"]].tolist() == ["–", "–", "undecided"]
    assert "Nothing is decided with 1 training a row" in in_words(found, SMOKE)


def test_a_row_of_one_s_own_has_no_number_of_the_paper_and_may_be_worse():
    own, ten = [0.2, 0.25, 0.3], [0.1, 0.14, 0.2]
    found = verdicts(
        scores_of(4, "lpips", mine=own, **{"10K": ten}), [Claim("mine", "mine", "10K", "lpips")], "table_3"
    )
    assert found.loc[0, ["paper", "verdict"]].tolist() == ["–", "contradicted"]


def test_no_difference_is_a_claim_that_can_hold_fail_or_stay_open():
    def verdict(margin, better):
        scores = scores_of(6, **{"100K": better, "10K": [0.1, 0.2, 0.3]})
        return verdicts(scores, [Claim("alike", "100K", "10K", "ssim", margin)], "table_3")["verdict"][0]

    assert verdict(0.02, [0.101, 0.198, 0.3]) == "equivalent"
    assert verdict(0.02, [0.2, 0.31, 0.39]) == "contradicted"
    assert verdict(0.002, [0.11, 0.19, 0.3]) == "undecided"


def test_claims_are_corrected_for_their_number():
    assert holm([0.01, 0.04, np.nan, 0.03]).tolist() == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)


def test_differences_between_trainings_are_not_taken_for_differences_between_recipes():
    """Without a true difference, 1 of 20 tests may say one; an error over the items alone says so most of the time."""
    rng = np.random.default_rng(0)
    ours, items_alone = [], []
    for _ in range(60):
        noise = rng.normal(0, 1, (5, 1)) + rng.normal(0, 1, (1, 20)) + rng.normal(0, 0.5, (5, 20))
        ours.append(compare(noise).p < 0.05)
        items_alone.append(abs(noise.mean()) > 2 * noise.mean(0).std(ddof=1) / np.sqrt(20))
    assert np.mean(ours) < 0.12
    assert np.mean(items_alone) > 0.3


def test_the_seeds_that_a_difference_needs_are_those_of_a_paired_t_test():
    """Cohen (1988), table 2.3.5: 34 pairs find an effect of half a deviation with a power of 80%."""
    by_seed = np.array([-1.0, 1.0] * 8) / np.std([-1.0, 1.0] * 8, ddof=1)
    assert np.ceil(seeds_needed(compare(by_seed[:, None].repeat(2, 1)), effect=0.5)) == 34


def test_a_table_s_rows_are_means_over_items_with_the_good_rate(tmp_path):
    scores = pd.DataFrame({"test": "3d", "key": ["a", "b"], "lpips": [0.2, 0.4]})
    facts = {"generated": 50, "good": 30, "videos": 30, "steps": 60}
    results = {"10K": [Result("engine_10k", seed, tmp_path, scores, facts) for seed in (0, 1)]}
    rows = table_rows(results, good_rate=True)
    assert rows.loc["10K", ["lpips", "lpips_std", "good_rate"]].tolist() == pytest.approx([0.3, 0.0, 60.0])


# ------------------------------------------------------------------------------------------------ a row of one's own


OWN = {  # table, notebook, row and variant
    "table_3": ("11_ablation_video_data", "1M videos", {"generated": 1_000_000, "part": True}),
    "table_4": (
        "12_ablation_training_strategies",
        "+ no weight decay",
        {"videos": 500_000, "part": True, "recipe": {"weight_decay": 0.0}},
    ),
    "table_5": (
        "13_ablation_3d_finetuning",
        "50K (8-views)",
        {"start": "synthetic", "finetuning": {"objects": 50_000}},
    ),
    "table_6": ("14_3d_vs_synthetic_data", "Half the data", {"videos": 1_350_000}),
    "figure_7": ("15_scaling_trends", "5M", {"videos": 5_000_000}),
}


@pytest.fixture
def with_a_row_of_ones_own(made, run_dir, tmp_path, monkeypatch):
    """A function that adds the variant `own` to a table, and leaves results of all its rows, as if all had run."""

    def add(table: str) -> list[str]:
        content = yaml.safe_load(VARIANTS.read_text())
        _, row, content["variants"]["own"] = OWN[table]
        content["tables"][table][row] = "own"
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        monkeypatch.setattr(load_experiments, "__defaults__", (file,))
        (run_dir / "data").unlink()
        for artifact in (layout.objects_3d, layout.test_data):
            artifact(run_dir).parent.mkdir(exist_ok=True)
            artifact(run_dir).symlink_to(artifact(made))
        write_videos(layout.synthetic_data(run_dir), layout.synthetic_labels(run_dir), 0.49, frames=16)
        trained = tmp_path / "trained"
        shutil.copytree(BUNDLED / "base", trained / "model")
        (trained / "log.csv").write_text("step,lpips\n1,0.5\n2,0.4\n")
        for place, (name, seed) in enumerate(itertools.product(content["tables"][table].values(), (0, 1))):
            scores = pd.DataFrame({"test": ["3d"] * 2 + ["text"] * 2, "key": ["object0", "object1", "000", "001"]})
            scores["common"] = [True, False] * 2
            for metric in ("psnr", "ssim", "lpips", "clip_text", "clip_image"):
                apart = [0, 1] if metric in ("psnr", "ssim", "lpips") else [2, 3]
                scores[metric] = scores.index.where(scores.index.isin(apart)) * 0.01 + 0.5 + 0.01 * place
            folder = layout.experiment(run_dir, name, seed)
            folder.mkdir(parents=True)
            write_scores(scores.assign(category="mug"), folder / "scores.csv.gz")
            facts = {"generated": 10, "good": 5, "videos": 5 + place, "steps": 2}
            kept = {"settings": {}, "model": os.path.relpath(trained / "model", run_dir), "facts": facts}
            (folder / "result.json").write_text(json.dumps(kept))
        return list(content["tables"][table])

    return add


@pytest.mark.parametrize("table", OWN)
def test_the_notebook_of_a_table_takes_a_row_of_ones_own_by_itself(table, with_a_row_of_ones_own, run_dir):
    rows, (notebook, own, _) = with_a_row_of_ones_own(table), OWN[table]
    names = {"display": lambda shown: None}
    source = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4)
    code = [cell.source for cell in source.cells if cell.cell_type == "code"]
    exec(code[0], names)
    names |= {"profile": "smoke", "run_dir": str(run_dir)}
    for cell in code[1:]:
        exec(cell, names)
    figures = run_dir.parents[1] / "figures" / "tiny"
    shown = pd.read_csv(
        figures / f"{table}.csv" if table != "figure_7" else figures / "figure_7_points.csv", index_col=0
    )
    assert list(shown.index) == rows
    assert shown.loc[own].notna().sum() >= 4
    if table in ("table_4", "table_5"):
        claims = pd.read_csv(figures / f"{table}_verdicts.csv").set_index("claim").loc[f"{own} helps"]
        assert len(claims) == 5
        assert set(claims["paper"]) == {"–"}
    if table == "table_4":
        assert names["switches"].loc[own, "weight_decay"] == 0.0


# ------------------------------------------------------------------------------------------------------- the power law


def test_a_power_law_is_found_exactly():
    counts = np.array([10, 30, 50, 100, 270])
    factor, exponent = power_law(counts, 0.7 * counts**-0.13)
    assert factor == pytest.approx(0.7)
    assert exponent == pytest.approx(-0.13)
    two = power_law([10, 1000], [0.5, 0.05])  # two points: the line through both
    assert two == pytest.approx((0.5 * 10**0.5, -0.5))


def test_the_bootstrap_has_no_width_without_noise_and_holds_the_truth_with_it():
    counts, rng = np.array([10, 30, 50, 100, 270]), np.random.default_rng(0)
    law = 0.7 * counts**-0.13
    exact = fit_power_law(counts, np.broadcast_to(law[:, None, None], (5, 3, 4)), rng, rounds=50)
    assert exact.interval() == pytest.approx((-0.13, -0.13))
    assert exact([1000]) == pytest.approx(0.7 * 1000**-0.13)
    assert exact.band(counts) == pytest.approx(np.stack([law, law]))
    inside = 0
    for _ in range(40):
        seeds, items = rng.normal(0, 0.02, (5, 3, 1)), rng.normal(0, 0.05, (1, 1, 40))
        low, high = fit_power_law(counts, law[:, None, None] + seeds + items, rng, rounds=200).interval()
        inside += low < -0.13 < high
    assert inside >= 30  # with three seeds, a bootstrap of 95% holds the truth a little more seldom


def test_items_that_are_hard_for_all_points_do_not_widen_the_exponent_as_seeds_do():
    counts, rng = np.array([10, 100, 1000]), np.random.default_rng(0)
    law = (0.7 * counts**-0.2)[:, None, None]
    hard = law * rng.uniform(0.5, 1.5, (1, 1, 30)) + np.zeros((3, 3, 1))
    low, high = fit_power_law(counts, hard, rng, rounds=200).interval()
    assert high - low < 1e-6


@pytest.mark.parametrize(
    ("counts", "errors", "complaint"), [([5, 5], [1, 2], "two different"), ([1, 2], [0.1, 0.0], "above 0")]
)
def test_a_power_law_that_cannot_be_is_refused(counts, errors, complaint):
    with pytest.raises(ValueError, match=complaint):
        power_law(counts, errors)


def test_what_ends_at_one_is_fitted_by_its_distance_and_drawn_as_it_is():
    rows = [
        {"method": row, "seed": seed, "key": key, "clip_image": value, "lpips": 1 - value}
        for row, value in (("100K", 0.5), ("1M", 0.75))
        for seed in (0, 1)
        for key in "ab"
    ]
    scores = pd.DataFrame(rows)
    errors = {metric: errors_of(scores, ["100K", "1M"], metric) for metric in ("lpips", "clip_image")}
    assert errors["clip_image"].shape == (2, 2, 2)
    assert np.allclose(errors["clip_image"], errors["lpips"])
    fits = {metric: fit_power_law([10, 100], e, np.random.default_rng(0), rounds=5) for metric, e in errors.items()}
    left, right = scaling_figure([10, 100], errors, fits).axes
    assert left.get_xscale() == "log"
    assert right.lines[0].get_ydata()[[0, -1]] == pytest.approx([0.5, 0.75])
    assert left.lines[0].get_ydata()[[0, -1]] == pytest.approx([0.5, 0.25])


# ------------------------------------------------------------------------------------------- the command, the workflow


def test_the_command_lists_and_plans_without_any_data(capsys, tmp_path):
    assert main(["experiment", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "50K (random)             finetuned_50k_random" in listed
    assert main(["experiment", "table_5", "--plan", "--profile", "paper", "--run-dir", str(tmp_path)]) == 0
    assert "finetuned_30k" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_command_names_what_is_wrong(capsys, tmp_path):
    assert main(["experiment", "table_9", "--run-dir", str(tmp_path)]) == 1
    assert "there is no variant 'table_9': choose of before_training" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["experiment"])
    assert stopped.value.code == 2
    assert "--list" in capsys.readouterr().err


def test_the_workflow_trains_each_variant_in_one_job_before_the_notebooks_that_show_it(tmp_path):
    """On one machine or on a cluster: the same trainings, each once, after what it starts from."""
    tables = {"00_one": "table_5", "01_two": "table_6"}
    entries = {name: {"needs": [], "uses": [], "experiments": table} for name, table in tables.items()}
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "Snakefile").write_bytes((ROOT / "workflow" / "Snakefile").read_bytes())
    (tmp_path / "workflow" / "notebooks.yaml").write_text(yaml.safe_dump(entries))
    (tmp_path / "notebooks").mkdir()
    for name in tables:
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(json.dumps({}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--dry-run", "--cores", "1"]
    command += ["--printshellcmds", "--scheduler", "greedy", "--nolock", "--config", "profile=smoke"]

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)

    def told(*more: str) -> list[str]:
        done = run(*more)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (done.stdout + done.stderr).splitlines()
        return [line.split(" experiment ")[1].split(" --profile")[0] for line in lines if " experiment " in line]

    assert sorted(told()) == ["table_5 --seed 0", "table_6 --seed 0"]
    apart = told("--configfile", str(ROOT / "workflow" / "profiles" / "slurm" / "cluster.yaml"))
    wanted = load_experiments().runs(SMOKE, ["table_5", "table_6"])
    assert sorted(apart) == sorted(f"{name} --seed {seed} --seeds 1" for name, seed in wanted)
    starts = apart.index("synthetic --seed 0 --seeds 1")
    assert all(starts < place for place, line in enumerate(apart) if line.startswith("finetuned"))
    wrong = run("apart=1")
    assert wrong.returncode == 1
    assert "not apart" in wrong.stdout + wrong.stderr
