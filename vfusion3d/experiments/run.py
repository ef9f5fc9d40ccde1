"""Run a variant: make what it needs, train, evaluate. Whatever another run made of the same settings is not made again.

A training is known by the settings its folder is claimed with (data, recipe, start, seed). So a variant that comes to
what notebook 06 or 07 trained, or another variant, takes that model, and is only evaluated.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import torch

from vfusion3d.data.shards import MultiviewShards
from vfusion3d.evaluation.protocol import NEAREST, evaluate_3d, model_predictor
from vfusion3d.evaluation.single_images import evaluate_single_images, orbit_of, prompt_images
from vfusion3d.evaluation.tables import write_scores
from vfusion3d.experiments.data import finetuning_data, training_data
from vfusion3d.experiments.variants import Experiments, load_experiments
from vfusion3d.foundations.loading import name_of
from vfusion3d.foundations.roles import Roles
from vfusion3d.learning.loop import Lesson, fingerprint, learn, remove_checkpoints
from vfusion3d.learning.processes import main_first, several_processes
from vfusion3d.model.sizes import Config
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs import layout
from vfusion3d.runs.claim import (
    SETTINGS,
    Arguments,
    changes,
    made_with,
    put_back,
    record,
    save_whole,
    short_name,
    write_record,
    write_whole,
)
from vfusion3d.runs.lock import only_writer
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.reading import read_json, read_table
from vfusion3d.training.train import new_model, training_lesson
from vfusion3d.video.prompts import evaluation_prompts

RESULT, SCORES = "result.json", "scores.csv.gz"
METRICS = ("psnr", "ssim", "lpips", "clip_text", "clip_image")
SCORE_COLUMNS = {"test": str, "key": str, **dict.fromkeys(METRICS, float)}  # text, for the key 007 is no number
AGAIN = "delete it, and `vfusion3d experiment` evaluates again"


class _Result(TypedDict):
    settings: dict[str, Any]
    model: str
    facts: dict[str, Any]


TEST_SEED = 0  # of the input views and of the prompts' images: every variant and every seed answers the same questions


@dataclass(frozen=True)
class Result:
    """What came of a variant with one seed. model: a folder for `VFusion3D.from_pretrained`.

    scores: one row a test item; `test` is "3d" (psnr, ssim, lpips) or "text" (clip_text, clip_image). facts: counts of
    what it was trained on, and its steps.
    """

    variant: str
    seed: int
    model: Path
    scores: pd.DataFrame
    facts: dict[str, Any]


def run_variant(
    profile: Profile,
    run_dir: str | Path,
    name: str,
    seed: int = 0,
    *,
    experiments: Experiments | None = None,
    overwrite: bool = False,
) -> Result:
    """Make one variant with one seed in `layout.experiment(run_dir, name, seed)`; what is done is not done again.

    experiments: by default the bundled variants. Interrupted, the same call goes on where it stopped. overwrite: what
    was made with other settings is deleted and made anew; without it, ValueError says what differs. In several
    processes (torchrun) all train, and share the videos that are to be made; the main one evaluates. Raises
    MissingArtifact where notebooks 01 to 05 have not run, ProfileError for an unknown variant.
    """
    run_dir = Path(run_dir)
    experiments = experiments or load_experiments()
    scaled = experiments.variant(name).at(profile)
    several_processes(profile.device)
    roles = Roles(profile)
    folder = layout.experiment(run_dir, name, seed)
    made = [
        run_variant(profile, run_dir, other, seed, experiments=experiments, overwrite=overwrite)
        for other in experiments.waits_for(name)
    ]
    if scaled.variant.steps_of:
        scaled = scaled.taking(made[0].facts["steps"] + made[0].facts.get("finetuning_steps", 0))
    if scaled.variant.untrained:
        with main_first():
            model = _untrained(profile, folder / "untrained", seed)
        facts = {"steps": 0}
    elif scaled.variant.start:
        model = made[0].model
        facts = dict(made[0].facts)
    else:
        data = training_data(roles, run_dir, scaled, folder, seed, overwrite=overwrite)
        samples = len(data.shards)
        facts = {"generated": data.generated, "good": data.good, "steps": scaled.training.steps_on(samples)}
        facts["videos" if scaled.variant.data == "synthetic" else "objects"] = samples
        lesson = training_lesson(roles, data.shards, scaled.training.on(samples), None, seed)
        model = _learned(lesson, folder / "trained", run_dir, profile.device, overwrite)
    if scaled.finetuning is not None:
        with main_first():
            objects = finetuning_data(roles, run_dir, scaled, seed)
        facts |= {"objects": len(objects), "finetuning_steps": scaled.finetuning.steps_on(len(objects))}
        recipe = scaled.finetuning.on(len(objects))
        lesson = training_lesson(roles, objects, recipe, VFusion3D.from_pretrained(model), seed)
        model = _learned(lesson, folder / "finetuned", run_dir, profile.device, overwrite)
    with main_first():
        return _evaluated(roles, run_dir, name, seed, model, facts)


def read_result(run_dir: str | Path, name: str, seed: int = 0) -> Result:
    """What `run_variant` left. Raises MissingArtifact that names the command which makes it."""
    run_dir = Path(run_dir)
    folder = layout.experiment.need(run_dir, name, seed)
    kept = read_json(folder / RESULT, _Result, AGAIN)
    scores = read_table(folder / SCORES, SCORE_COLUMNS, AGAIN)
    return Result(name, seed, run_dir / kept["model"], scores, kept["facts"])


def evaluate_variant(profile: Profile, run_dir: Path, model: VFusion3D) -> pd.DataFrame:
    """Both tests of section 4.3: novel views of unseen 3D objects, and text to 3D (prompt, image, 3D).

    One row a test item: `test`, `key`, `category`, `common` and the metrics of its test.
    """
    roles = Roles(profile)
    shards = MultiviewShards(layout.test_data.need(run_dir))
    prompts = evaluation_prompts(profile, run_dir)
    views = profile.experiments.views
    model = model.to(roles.device).eval()
    size = min(model.config.image_size, shards.read(0, [0]).rgba.shape[-1])
    seen = evaluate_3d(
        model_predictor(model),
        shards,
        size=size,
        perceptual=roles.perceptual_distance,
        generator=np.random.default_rng(TEST_SEED),
        views=views,
        device=roles.device,
    )
    seen["common"] = [shards.metadata(index).get("common") for index in range(len(shards))]
    told = evaluate_single_images(
        {"VFusion3D": orbit_of(model, size=size, views=views, away=True)},
        prompt_images(roles.text_to_image, prompts, TEST_SEED, size),
        prompts,
        roles.clip,
        keys=[f"{index:03d}" for index in range(len(prompts))],
        size=size,
        device=roles.device,
    )
    told["category"], told["common"] = zip(*map(_category, prompts), strict=True)
    columns = ["test", "key", "category", "common", *METRICS]
    return pd.concat([seen.assign(test="3d"), told.assign(test="text")]).reindex(columns=columns)


def _learned(lesson: Lesson, folder: Path, run_dir: Path, device: str, overwrite: bool) -> Path:
    """The model of a training: another run's of the same settings if there is one, else trained in `folder`."""
    trainings = [path.parent for path in sorted((run_dir / "experiments").glob(f"*/seed-*/*/{SETTINGS}"))]
    notebooks = [layout.pretrained_model(run_dir), layout.finetuned_model(run_dir)]
    model = learn(lesson, folder, elsewhere=[*notebooks, *trainings], overwrite=overwrite, device=device)
    remove_checkpoints(folder)  # many runs: only what they end in stays
    return model


def _untrained(profile: Profile, folder: Path, seed: int) -> Path:
    """The model that trainings begin with, saved once: of several commands one saves it, and the others wait."""
    model = new_model(profile, torch.Generator().manual_seed(seed))
    settings = {"model": Arguments(Config, asdict(model.config)), "weights": fingerprint(model)}

    def save(partial: Path) -> None:
        model.save_pretrained(partial)
        write_record(partial / SETTINGS, settings)

    with only_writer(folder.parent, wait=math.inf):
        put_back(folder)
        if not made_with(folder / SETTINGS, settings):
            save_whole(save, folder)
    return folder


def _evaluated(roles: Roles, run_dir: Path, name: str, seed: int, path: Path, facts: dict[str, Any]) -> Result:
    """The result of a variant whose model is at `path`; evaluated anew where model or test are others than before."""
    folder = layout.experiment(run_dir, name, seed)
    profile = roles.profile
    model = VFusion3D.from_pretrained(path)
    settings = {
        "model": fingerprint(model),
        "test": MultiviewShards(layout.test_data.need(run_dir)).fingerprint,
        "prompts": short_name("\n".join(evaluation_prompts(profile, run_dir))),
        "views": profile.experiments.views,
        "nearest": NEAREST,
        "clip": name_of(profile, "clip"),
        "perceptual_distance": name_of(profile, "perceptual_distance"),
        "text_to_image": name_of(profile, "text_to_image"),
    }
    kept = {"settings": record(settings), "model": os.path.relpath(path, run_dir), "facts": facts}
    before = read_json(folder / RESULT, _Result, AGAIN)["settings"] if (folder / RESULT).exists() else {}
    if changes(before, settings) or not (folder / SCORES).exists():
        write_scores(_scores(profile, run_dir, model, settings), folder / SCORES)
    write_whole(folder / RESULT, lambda partial: partial.write_text(json.dumps(kept, indent=1)))
    return read_result(run_dir, name, seed)


def _scores(profile: Profile, run_dir: Path, model: VFusion3D, settings: dict[str, Any]) -> pd.DataFrame:
    """The scores of a model, taken over where another variant or seed came to the same model and the same test."""
    for other in sorted(run_dir.glob(f"experiments/*/seed-*/{RESULT}")):
        scores = other.with_name(SCORES)
        if scores.exists() and not changes(read_json(other, _Result, AGAIN)["settings"], settings):
            return read_table(scores, SCORE_COLUMNS, AGAIN)
    return evaluate_variant(profile, run_dir, model)


def _category(prompt: str) -> tuple[str, bool | None]:
    """The category of a prompt of the procedural world, and whether the 3D data hold it; nothing is known of others."""
    from vfusion3d.world.captions import CaptionError, make_object
    from vfusion3d.world.objects import COMMON

    try:
        category = make_object(prompt, 0).category
    except CaptionError:
        return "", None
    return category, category in COMMON
