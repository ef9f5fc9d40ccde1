"""What a notebook would do at a profile, before it does it: counts, hours, disk.

    >>> plan("06_train_vfusion3d", load_profile("paper"))
    >>> # python -m vfusion3d.notebooks notebooks/06_train_vfusion3d.ipynb --profile paper --dry-run

Counts follow from the profile. Hours are counts times rates (`rates.yaml`, each with its source), divided among all
devices of the profile's machine as if nothing ever waited: a lower bound. What a notebook draws, loads and shows is not
counted, and neither is what another notebook has made already. Nothing is read but the profile and the rates; no torch
is needed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from vfusion3d.profiles import KEPT, Profile

RATES = Path(__file__).with_name("rates.yaml")
GOOD_RATES = {10_000: 0.445, 50_000: 0.521, 100_000: 0.613}  # by the video model's 3D objects (Table 3)
TEST_VIEWS, NOVEL_VIEWS, TURN_VIEWS, METHODS = 33, 32, 32, 3
RATERS, QUESTIONS = 5, 2
HOUR, GIGABYTE = 3600, 1e9


@dataclass(frozen=True)
class Step:
    """A kind of work: `count` units of the rate `rate`; `stored` names what of `bytes` is left of each (times)."""

    what: str
    count: float
    rate: str
    stored: str | None = None
    times: float = 1.0


def plan(notebook: str, profile: Profile) -> pd.DataFrame:
    """The steps of a notebook, such as "06_train_vfusion3d", and their sum.

    Columns: `count` of `unit`; `device` (GPU or core) and `device_hours` of one of them; `hours` on all that the
    profile's machine has; `disk_gb`; `known`: where the rate comes from. A number that nobody knows is empty (None).
    Raises ValueError for a notebook that has no plan.
    """
    known = yaml.safe_load(RATES.read_text(encoding="utf-8"))
    size = "paper" if profile.model.size == "released" else "mini"
    machine = known["machines"]["cpu" if profile.device == "cpu" else "cluster" if size == "paper" else "gpu"]
    rows = [_row(step, known, size, machine) for step in steps(notebook, profile)]
    for kind in ("GPU", "core"):
        if any(row["device"] == kind for row in rows):
            some = [row for row in rows if row["device"] == kind]
            sums = {name: sum(row[name] or 0 for row in some) for name in ("device_hours", "hours", "disk_gb")}
            rows.append(
                {"step": f"total on {kind}s", "device": kind, "known": f"of {machine[kind.lower() + 's']}", **sums}
            )
    table = pd.DataFrame(rows, dtype=object).set_index("step")
    for name in ("count", "device_hours", "hours", "disk_gb"):
        table[name] = pd.Series([_three_digits(value) for value in table[name]], table.index, dtype=object)
    return table.where(table.notna(), None)


def steps(notebook: str, profile: Profile) -> list[Step]:
    """What a notebook does at a profile. Raises ValueError for a notebook that has no plan."""
    if notebook not in STEPS:
        raise ValueError(f"there is no plan of {notebook!r}: only of {', '.join(STEPS)}")
    return [step for step in STEPS[notebook](profile) if step.count]


# ------------------------------------------------------------------------------------------------ what a notebook does


def _quickstart(profile: Profile) -> list[Step]:
    turn = Step("frames of a turntable", 24, "render field")
    return [Step("picture to mesh", 1, "reconstruct"), turn]


def _render(profile: Profile) -> list[Step]:
    data = profile.data
    return [
        Step("views of 3D training objects", data.objects_3d * data.views_3d, "render view", "view"),
        Step("views of unseen objects", data.test_objects * TEST_VIEWS, "render view", "view"),
    ]


def _prompts(profile: Profile) -> list[Step]:
    kept = yaml.safe_load(RATES.read_text(encoding="utf-8"))["kept"]["captions"]
    web = max(0, profile.data.prompts - profile.data.objects_3d)
    return [
        Step("captions of 3D objects", profile.data.objects_3d, "caption object"),
        Step("captions of the web, read", math.ceil(web / kept), "filter caption"),
    ]


def _finetune_video(profile: Profile) -> list[Step]:
    return [_video_model(profile, "fine-tuning of the video model")]


def _generate(profile: Profile) -> list[Step]:
    images = Step("first frames", profile.data.videos, "draw image")
    return [images, _videos(profile, profile.data.videos)]


def _curate(profile: Profile) -> list[Step]:
    data = profile.data
    return [
        Step("videos labelled good or bad", data.labelled_videos, "by a person"),
        *_labels(profile, data.videos),
        Step("frames for the elevation's training", 4 * data.objects_3d, "image features"),
    ]


def _pretrain(profile: Profile) -> list[Step]:
    return [_training(profile, "pre-training", KEPT * profile.data.videos)]


def _finetune(profile: Profile) -> list[Step]:
    tests = [Step("evaluation, before and after", 2 * profile.data.test_objects * NOVEL_VIEWS, "evaluate view")]
    return [_finetuning(profile, "fine-tuning on 3D data", profile.data.objects_3d), *tests]


def _image_to_3d(profile: Profile) -> list[Step]:
    return [
        Step("full turns of the images", profile.data.eval_images * METHODS * TURN_VIEWS, "evaluate view"),
        Step("novel views of unseen objects", profile.data.test_objects * METHODS * NOVEL_VIEWS, "evaluate view"),
    ]


def _text_to_3d(profile: Profile) -> list[Step]:
    prompts = profile.data.eval_prompts
    turns = Step("full turns", prompts * METHODS * TURN_VIEWS, "evaluate view")
    return [Step("images of the prompts", prompts, "draw image"), turns]


def _user_study(profile: Profile) -> list[Step]:
    items = profile.data.eval_images + profile.data.eval_prompts
    return [
        Step("answers of people", items * (METHODS - 1) * QUESTIONS * RATERS, "by a person"),
        Step("frames that simulated raters see", items * METHODS * TURN_VIEWS, "clip features"),
    ]


def _table_3(profile: Profile) -> list[Step]:
    found = []
    for objects, good in GOOD_RATES.items():
        videos, name = profile.scaled(500_000), f"{objects // 1000}K"
        if objects < 100_000:  # the video model of all objects, and its videos, are those of 03 and 04
            found += [_video_model(profile, f"{name}: fine-tuning of the video model"), _videos(profile, videos, name)]
            found += _labels(profile, videos, name)
        found.append(_training(profile, f"{name}: training", good * videos, part=True))
    return [*found, *_tests(profile, len(GOOD_RATES))]


def _table_4(profile: Profile) -> list[Step]:
    rows = ("baseline", "+ multi-stage", "+ no pixel loss", "+ opacity", "+ camera noise")
    trained = [_training(profile, row, profile.scaled(500_000), part=True) for row in rows]
    return [*trained, *_tests(profile, len(rows))]


def _table_5(profile: Profile) -> list[Step]:
    rows = ("10K", "30K", "50K", "50K (random)", "50K (16-views)")  # each takes the steps of 100K
    found = [_finetuning(profile, row, profile.data.objects_3d) for row in rows]
    return [*found, *_tests(profile, len(rows) + 2)]  # with none, and all of them, which 06 and 07 made


def _table_6(profile: Profile) -> list[Step]:
    return [_training(profile, "3D data only", profile.data.objects_3d), *_tests(profile, 3)]


def _figure_7(profile: Profile) -> list[Step]:
    counts = {"100K": 100_000, "300K": 300_000, "1M": 1_000_000}  # 500K is the last row of 12, 2.7M the model of 06
    how = {"part": True, "seeds": profile.experiments.scaling_seeds}
    found = [_training(profile, f"{name} videos", profile.scaled(count), **how) for name, count in counts.items()]
    return [*found, *_tests(profile, how["seeds"] * (len(counts) + 2))]


def _miniatures(profile: Profile) -> list[Step]:
    return [Step("frames of the web world", 16 * (12 if profile.name == "smoke" else 160), "render view")]


def _pilots(profile: Profile) -> list[Step]:
    count, views = (4, 4) if profile.name == "smoke" else (20, 16)
    return [
        Step("views of unseen objects", 17 * count, "render view"),
        Step("evaluation of the base, twice", 2 * count * views, "evaluate view"),
    ]


STEPS: dict[str, Callable[[Profile], list[Step]]] = {
    "00_quickstart": _quickstart,
    "01_render_3d_data": _render,
    "02_prompts": _prompts,
    "03_finetune_video_model": _finetune_video,
    "04_generate_synthetic_data": _generate,
    "05_filter_and_label": _curate,
    "06_train_vfusion3d": _pretrain,
    "07_finetune_on_3d_data": _finetune,
    "08_image_to_3d": _image_to_3d,
    "09_text_to_3d": _text_to_3d,
    "10_user_study": _user_study,
    "11_ablation_video_data": _table_3,
    "12_ablation_training_strategies": _table_4,
    "13_ablation_3d_finetuning": _table_5,
    "14_3d_vs_synthetic_data": _table_6,
    "15_scaling_trends": _figure_7,
    "A1_miniature_foundations": _miniatures,
    "A2_what_makes_it_sharp": _pilots,
}


# -------------------------------------------------------------------------------------------- what several of them do


def _video_model(profile: Profile, what: str) -> Step:
    count = profile.video.steps * profile.video.batch_size
    return Step(what, count, "finetune video model", "video model", 1 / count)


def _videos(profile: Profile, count: int, name: str = "") -> Step:
    denoising, frames = profile.video.inference_steps, profile.video.frames
    what = f"{name}: {count:,} videos" if name else f"{count:,} videos"
    return Step(what, count * denoising, "generate video", "frame", frames / denoising)


def _labels(profile: Profile, videos: int, name: str = "") -> list[Step]:
    before = f"{name}: " if name else ""
    frames = profile.video.frames
    return [
        Step(f"{before}frames that the filter sees", 8 * videos, "image features"),
        Step(f"{before}frames that give the elevation", frames * videos, "image features"),
        Step(f"{before}masks", frames * videos, "mask", "mask"),
    ]


def _training(profile: Profile, what: str, objects: float, *, part: bool = False, seeds: int = 1) -> Step:
    """part: of the data only, which the profile may bound to `experiments.steps`."""
    recipe = profile.training
    seen = max(1, math.ceil(recipe.epochs * max(1, round(objects)) / recipe.batch_size))
    seen = min(seen, recipe.max_steps or seen)
    if part and profile.experiments.steps:
        seen = profile.experiments.steps
    samples = seeds * seen * recipe.batch_size
    return Step(what, samples, "train VFusion3D", "VFusion3D", 1 / samples)


def _finetuning(profile: Profile, what: str, objects: int) -> Step:
    recipe = profile.finetuning
    samples = math.ceil(recipe.epochs * objects / recipe.batch_size) * recipe.batch_size if recipe else 0
    return Step(what, samples, "train VFusion3D", "VFusion3D", 1 / max(1, samples))


def _tests(profile: Profile, variants: int) -> list[Step]:
    items = profile.data.test_objects + profile.data.eval_prompts
    return [Step("evaluation of the variants", variants * items * NOVEL_VIEWS, "evaluate view")]


def _row(step: Step, known: dict[str, Any], size: str, machine: dict[str, Any]) -> dict[str, Any]:
    rate = known["rates"][step.rate]
    entry, seconds, device, where = rate[size], None, None, f"{rate[size]['known']}: {rate[size]['source']}"
    if "tflop" in entry:
        seconds, device = entry["tflop"] / known["a100"]["tflop_a_second"], "GPU"
    elif "gpu_seconds" in entry:
        seconds, device = entry["gpu_seconds"], "GPU"
    elif "core_seconds" in entry:
        device = "core" if rate.get("cores") or not machine["gpus"] else "GPU"
        seconds = entry["core_seconds"] if device == "core" else None
        where = where if device == "core" else "not measured on a GPU"
    else:
        where = entry["source"]
    hours = None if seconds is None else step.count * seconds / HOUR
    disk = step.count * step.times * known["bytes"][step.stored][size] / GIGABYTE if step.stored else None
    many = machine.get(f"{device}s".lower())
    row = {"step": step.what, "count": step.count, "unit": rate["unit"], "device": device, "device_hours": hours}
    return row | {"hours": hours and hours / many, "disk_gb": disk, "known": where}


def _three_digits(value: Any) -> int | float | None:
    if value is None or pd.isna(value):
        return None
    value = float(f"{value:.3g}")
    return int(value) if value == int(value) else value
