"""What a notebook would do at a profile, before it does it: counts, hours, disk.

    >>> plan("06_train_vfusion3d", load_profile("paper"))
    >>> # python -m vfusion3d.book.run notebooks/06_train_vfusion3d.ipynb --profile paper --dry-run

Counts follow from what runs: the profile, the variants and their trainings (`experiments.plan`), the protocols. Hours
are counts times rates (`rates.yaml`, each with its source), divided among all devices of the profile's machine as if
nothing ever waited: a lower bound. What a notebook draws only to show it is not counted, and neither is what another
notebook has made already. Nothing is read but the profile, the variants and the rates.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from vfusion3d.book.summary import PARTS
from vfusion3d.data.views import NOVEL_VIEWS, TEST_VIEWS
from vfusion3d.evaluation.methods import TURN_FRAMES
from vfusion3d.evaluation.single_images import ORBIT_VIEWS
from vfusion3d.experiments.plan import Planned, Training, finetuning, main_videos, planned_runs, pretraining
from vfusion3d.experiments.variants import load_experiments
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.reading import read_yaml
from vfusion3d.study.answers import QUESTIONS, RATERS
from vfusion3d.world.web_world import FRAMES

RATES = Path(__file__).with_name("rates.yaml")
LOOK = 8  # novel views of an unseen object that notebooks 06 and 07 compare
RIVALS = 2  # methods that VFusion3D is shown beside, and that the user study asks about (notebooks 08 to 10)
CAPTIONS = "captions of the web"  # beside the keys of `experiments.plan`: the share that the prompt filter keeps
HOUR, GIGABYTE = 3600, 1e9
Shares = Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """A kind of work: `count` units of the rate `rate`; `stored` names what of `bytes` is left of each (times)."""

    what: str
    count: float
    rate: str
    stored: str | None = None
    times: float = 1.0


def plan(notebook: str, profile: Profile, shares: Mapping[str, float] = {}) -> pd.DataFrame:
    """The steps of a notebook, such as "06_train_vfusion3d", and their sum.

    shares: what the filters keep, where it is known (`experiments.plan.planned_runs`; `CAPTIONS`).

    Columns: `count` of `unit`; `device` (GPU or core) and `device_hours` of one of them; `hours` on all that the
    profile's machine has; `disk_gb`; `known`: where the rate comes from. A number that nobody knows is empty (None).
    Raises ValueError for a notebook that has no plan.
    """
    machine = _machine(profile)
    rows = _rows(steps(notebook, profile, shares), profile)
    for kind in ("GPU", "core"):
        if some := [row for row in rows if row["device"] == kind]:
            sums = {name: sum(row[name] or 0 for row in some) for name in ("device_hours", "hours", "disk_gb")}
            many = machine[f"{kind.lower()}s"]
            rows.append({"step": f"total on {kind}s", "device": kind, "known": f"of {many}", **sums})
    table = pd.DataFrame(rows, dtype=object).set_index("step")
    for name in ("count", "device_hours", "hours", "disk_gb"):
        table[name] = pd.Series([_three_digits(value) for value in table[name]], table.index, dtype=object)
    return table.where(table.notna(), None)


def sum_of(plans: Sequence[pd.DataFrame]) -> str:
    """What several notebooks cost together, in a line. plans: of `plan`."""
    totals = pd.concat(plans).filter(regex="^total on ", axis="index").groupby("device")[["device_hours", "disk_gb"]]
    sums = totals.sum()
    hours = [f"{_three_digits(cost['device_hours']):,} hours of one {device}" for device, cost in sums.iterrows()]
    return f"all {len(plans)} notebooks: {' and '.join(hours)}, {_three_digits(sums['disk_gb'].sum()):,} GB of disk"


def steps(notebook: str, profile: Profile, shares: Mapping[str, float] = {}) -> list[Step]:
    """What a notebook does at a profile. Raises ValueError for a notebook that has no plan."""
    if notebook not in STEPS:
        raise ValueError(f"there is no plan of {notebook!r}: only of {', '.join(STEPS)}")
    return [step for step in STEPS[notebook](profile, shares) if step.count]


def cost(work: Sequence[Step], profile: Profile) -> dict[str, float | None]:
    """Hours of one GPU and of one core that some steps take, by "GPU" and "core"; None where nobody measured."""
    hours: dict[str, float | None] = {}
    for row in _rows(work, profile):
        if row["device"]:
            before, more = hours.get(row["device"], 0.0), row["device_hours"]
            hours[row["device"]] = None if before is None or more is None else before + more
    return hours


def disk(work: Sequence[Step], profile: Profile) -> float:
    """Gigabytes that some steps leave on the disk."""
    return sum(row["disk_gb"] or 0.0 for row in _rows(work, profile))


def variant_steps(profile: Profile, runs: Iterable[tuple[str, int]]) -> list[Step]:
    """What these variants (and seeds) come to that neither notebooks 06 and 07 nor what they start from trained."""
    experiments = load_experiments()
    made = {pretraining(profile), finetuning(profile)}
    found = []
    for name, seed in runs:
        *before, run = planned_runs(profile, [name], seed, 1, experiments=experiments)
        known = made.union(*(other.trainings for other in before))
        trainings = [training for training in run.trainings if training not in known]
        made |= {*trainings}
        found += _own_videos(profile, name, [run]) + ([_training(name, trainings)] if trainings else [])
        found.append(Step(f"{name}: evaluation", _compared(profile), "evaluate view"))
    return found


def label_steps(profile: Profile) -> list[Step]:
    """Of notebook 05, what is done to every video, once the models that label have learned."""
    return _labels(profile, main_videos(profile))


# ------------------------------------------------------------------------------------------------ what a notebook does


def _quickstart(profile: Profile, shares: Shares) -> list[Step]:
    return [Step("picture to mesh", 1, "reconstruct"), Step("frames of a turntable", 24, "render field")]


def _render(profile: Profile, shares: Shares) -> list[Step]:
    data = profile.data
    return [
        Step("views of 3D training objects", data.objects_3d * data.views_3d, "render view", "view"),
        Step("views of validation objects", data.validation_objects * TEST_VIEWS, "render view", "view"),
        Step("views of unseen objects", data.test_objects * TEST_VIEWS, "render view", "view"),
    ]


def _prompts(profile: Profile, shares: Shares) -> list[Step]:
    kept = shares.get(CAPTIONS) or _rates()["kept"]["captions"]
    web = max(0, profile.data.prompts - profile.data.objects_3d)
    return [
        Step("captions of 3D objects", min(profile.data.objects_3d, profile.data.prompts), "caption object"),
        Step("captions of the web, read", math.ceil(round(web / kept, 6)), "filter caption"),
    ]


def _finetune_video(profile: Profile, shares: Shares) -> list[Step]:
    return [_video_model(profile, "fine-tuning of the video model")]


def _generate(profile: Profile, shares: Shares) -> list[Step]:
    return _videos(profile, main_videos(profile))


def _curate(profile: Profile, shares: Shares) -> list[Step]:
    from vfusion3d.curation.curate import ELEVATION_VIEWS, ENOUGH, ORBITS, OTHERS, QUALITY_FRAMES  # takes seconds

    judged = min(profile.data.judged_videos, main_videos(profile))
    orbits = ORBITS * profile.data.objects_3d + 3 * min(OTHERS * profile.data.objects_3d, ENOUGH)
    return [
        Step("videos judged good or bad", judged, "by a person"),
        Step("frames that the filter learns from", QUALITY_FRAMES * judged, "image features"),
        *_labels(profile, main_videos(profile)),
        Step("views for the elevation's training", ELEVATION_VIEWS * orbits, "render view"),
        Step("the same, each also in a mirror", 2 * ELEVATION_VIEWS * orbits, "image features"),
    ]


def _pretrain(profile: Profile, shares: Shares) -> list[Step]:
    views = 4 * profile.data.test_objects * LOOK  # before and after, and two that know no 3D
    return [_training("pre-training", [pretraining(profile, 0, shares)]), Step("evaluation", views, "evaluate view")]


def _finetune(profile: Profile, shares: Shares) -> list[Step]:
    compared = 4 * profile.data.test_objects * LOOK
    told = 3 * profile.data.test_objects * (LOOK // 2)
    training = finetuning(profile, 0, shares)
    return [
        *([_training("fine-tuning on 3D data", [training])] if training else []),
        Step("evaluation, before and after", compared, "evaluate view"),
        Step("evaluation with elevations told, guessed and true", told, "evaluate view"),
    ]


def _image_to_3d(profile: Profile, shares: Shares) -> list[Step]:
    images = min(profile.data.eval_images, profile.data.test_objects)
    objects = profile.data.test_objects
    methods = 1 + RIVALS + 4  # two bundled models, the input repeated, a white image
    views = min(NOVEL_VIEWS, 2 * objects)
    return [
        *_turns(images, methods + 1),
        Step("novel views of unseen objects", objects * methods * views, "evaluate view"),
    ]


def _text_to_3d(profile: Profile, shares: Shares) -> list[Step]:
    prompts = profile.data.eval_prompts  # the methods of 08, and what the prompt finds in place of the truth
    return [Step("images of the prompts", prompts, "draw image"), *_turns(prompts, 1 + RIVALS + 5)]


def _turns(images: int, methods: int) -> list[Step]:
    return [
        Step("full turns", images * (1 + RIVALS) * TURN_FRAMES, "render field"),
        Step("views that CLIP compares", images * methods * ORBIT_VIEWS, "evaluate view"),
    ]


def _user_study(profile: Profile, shares: Shares) -> list[Step]:
    items = min(profile.data.eval_images, profile.data.test_objects) + profile.data.eval_prompts
    return [
        Step("answers of people", items * RIVALS * len(QUESTIONS) * RATERS, "by a person"),
        Step("frames that simulated raters see", items * (1 + RIVALS) * TURN_FRAMES, "image features"),
    ]


def _ablation(table: str, profile: Profile, shares: Shares) -> list[Step]:
    """The trainings and the evaluations of a table that neither notebooks 06 and 07 nor an earlier table made."""
    experiments = load_experiments()
    before = set()
    made = {pretraining(profile, 0, shares), finetuning(profile, 0, shares)}
    for earlier in experiments.tables:
        runs = planned_runs(profile, [earlier], experiments=experiments, shares=shares)
        if earlier == table:
            break
        before |= {(run.name, run.seed) for run in runs}
        made |= {training for run in runs for training in run.trainings}
    rows = {name: row for row, name in experiments.tables[table].items()}
    new = [run for run in runs if (run.name, run.seed) not in before]
    found = []
    for name in dict.fromkeys(run.name for run in new):
        mine = [run for run in new if run.name == name]
        trainings = dict.fromkeys(training for run in mine for training in run.trainings if training not in made)
        found += _own_videos(profile, rows.get(name, name), mine)
        for kind, some in (("training", False), ("fine-tuning", True)):
            if chosen := [training for training in trainings if bool(training.start) == some]:
                found.append(_training(f"{rows.get(name, name)}: {kind}", chosen))
        made |= trainings.keys()
    return [*found, Step("evaluation of the variants", len(new) * _compared(profile), "evaluate view")]


def _compared(profile: Profile) -> int:
    """The views of unseen objects and of prompts that a variant is judged by."""
    views = min(profile.experiments.views, NOVEL_VIEWS) * profile.data.test_objects
    return views + profile.experiments.views * profile.data.eval_prompts


def _miniatures(profile: Profile, shares: Shares) -> list[Step]:
    videos, objects = (12, 4) if profile.name == "smoke" else (160, 40)
    return [
        Step("frames of the web world", FRAMES * videos, "render view"),
        Step("views of random primitives", TEST_VIEWS * objects, "render view"),
    ]


def _pilots(profile: Profile, shares: Shares) -> list[Step]:
    count, views = (4, 4) if profile.name == "smoke" else (20, 16)
    return [
        Step("views of unseen objects", 17 * count, "render view"),
        Step("evaluation of the base, twice", 2 * count * views, "evaluate view"),
    ]


STEPS: dict[str, Callable[[Profile, Shares], list[Step]]] = {
    "00_quickstart": _quickstart,
    "01_render_3d_data": _render,
    "02_prompts": _prompts,
    "03_finetune_video_model": _finetune_video,
    "04_generate_synthetic_data": _generate,
    "05_filter_and_label": _curate,
    "05b_inside_the_model": lambda profile, shares: [Step("picture to mesh", 1, "reconstruct")],
    "06_train_vfusion3d": _pretrain,
    "07_finetune_on_3d_data": _finetune,
    "08_image_to_3d": _image_to_3d,
    "09_text_to_3d": _text_to_3d,
    "10_user_study": _user_study,
    **{part.notebook: partial(_ablation, part.stem) for part in PARTS if part.stem in load_experiments().tables},
    "A1_miniature_foundations": _miniatures,
    "A2_what_makes_it_sharp": _pilots,
}


# -------------------------------------------------------------------------------------------- what several of them do


def _video_model(profile: Profile, what: str, models: int = 1) -> Step:
    count = models * profile.video.steps * profile.video.batch_size
    return Step(what, count, "finetune video model", "video model", models / count)


def _videos(profile: Profile, count: int, before: str = "") -> list[Step]:
    denoising = profile.video.inference_steps
    frames = profile.video.frames
    what = f"{before}{count:,} videos"
    return [
        Step(f"{before}first frames", count, "draw image"),
        Step(what, count * denoising, "generate video", "frame", frames / denoising),
    ]


def _labels(profile: Profile, videos: int, before: str = "") -> list[Step]:
    from vfusion3d.curation.labels import ELEVATION_VIEWS, QUALITY_FRAMES  # takes seconds

    frames = profile.video.frames
    groups = frames // ELEVATION_VIEWS
    return [
        Step(f"{before}frames that the filter sees", QUALITY_FRAMES * videos, "image features"),
        Step(f"{before}frames that give the elevation", ELEVATION_VIEWS * groups * videos, "image features"),
        Step(f"{before}masks", frames * videos, "mask", "mask"),
    ]


def _own_videos(profile: Profile, row: str, runs: list[Planned]) -> list[Step]:
    """What variants need that generate with a video model of their own."""
    if not runs[0].scaled.video_objects:
        return []
    videos = sum(run.generated for run in runs)
    before = f"{row}: "
    model = _video_model(profile, f"{before}fine-tuning of the video model", len(runs))
    return [model, *_videos(profile, videos, before), *_labels(profile, videos, before)]


def _training(what: str, trainings: list[Training]) -> Step:
    samples = sum(training.steps * training.recipe.batch_size for training in trainings)
    return Step(what, samples, "train VFusion3D", "VFusion3D", len(trainings) / samples)


@lru_cache(maxsize=1)
def _rates() -> dict[str, Any]:
    return read_yaml(RATES)


def _machine(profile: Profile) -> dict[str, Any]:
    size = "paper" if profile.model.size == "released" else "mini"
    return _rates()["machines"]["cpu" if profile.device == "cpu" else "cluster" if size == "paper" else "gpu"]


def _rows(work: Sequence[Step], profile: Profile) -> list[dict[str, Any]]:
    known, machine = _rates(), _machine(profile)
    size = "paper" if profile.model.size == "released" else "mini"
    return [_row(step, known, size, machine) for step in work]


def _row(step: Step, known: dict[str, Any], size: str, machine: dict[str, Any]) -> dict[str, Any]:
    rate = known["rates"][step.rate]
    entry = rate[size]
    seconds = None
    device = None
    where = f"{entry['known']}: {entry['source']}"
    if "tflop" in entry:
        seconds = entry["tflop"] / known["a100"]["tflop_a_second"]
        device = "GPU"
    elif "gpu_seconds" in entry:
        seconds = entry["gpu_seconds"]
        device = "GPU"
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
