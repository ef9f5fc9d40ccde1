"""What the variants come to at a profile before anything is made: their data, and which trainings they need.

Everything follows from what runs: `variants.yaml`, the profile, the recipes' steps. One thing nobody knows beforehand,
the share of the videos that the filter will keep. The paper's stands in for it, or what a run has found.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vfusion3d.evaluation.tables import paper_table
from vfusion3d.experiments.variants import FEWEST, Experiments, Scaled, load_experiments
from vfusion3d.runs.profiles import KEPT, Profile, Recipe
from vfusion3d.training.schedule import total_steps

ALL_VIDEOS = "all videos"  # beside the variants' names in `shares`: the whole set of notebook 04


@dataclass(frozen=True)
class Training:
    """A training told in advance; two that are equal give the same model. data: what tells it from other data."""

    recipe: Recipe
    samples: int
    data: tuple
    seed: int
    start: "Training | None" = None

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return total_steps(self.recipe, self.samples)


@dataclass(frozen=True)
class Planned:
    """A variant with one seed, told in advance. generated: its videos before the filter, if it has some.

    trainings: of its model, in order: none, one, or one and a fine-tuning. Other variants may need the same ones.
    """

    name: str
    seed: int
    scaled: Scaled
    generated: int | None
    trainings: tuple[Training, ...]


def main_videos(profile: Profile) -> int:
    """How many videos notebook 04 makes: one a prompt, and no more than there are prompts."""
    return min(profile.data.videos, profile.data.prompts)


def pretraining(profile: Profile, seed: int = 0, shares: Mapping[str, float] = {}) -> Training:
    """The training of notebook 06: the profile's recipe on all videos that the filter keeps."""
    good = max(1, round(shares.get(ALL_VIDEOS, KEPT) * main_videos(profile)))
    return Training(profile.training, good, ("videos",), seed)


def finetuning(profile: Profile, seed: int = 0, shares: Mapping[str, float] = {}) -> Training | None:
    """The training of notebook 07, on all 3D objects; None for a profile that has no fine-tuning."""
    data = ("objects", None, None)
    start = pretraining(profile, seed, shares)
    return profile.finetuning and Training(profile.finetuning, profile.data.objects_3d, data, seed, start)


def planned_runs(
    profile: Profile,
    names: Iterable[str],
    seed: int = 0,
    seeds: int | None = None,
    *,
    experiments: Experiments | None = None,
    shares: Mapping[str, float] = {},
) -> list[Planned]:
    """What `names` (of variants or tables) need, one a variant and seed, in an order that works; nothing is read.

    shares: of the generated videos that the filter keeps, by variant that counts them before the filter, and of
    `ALL_VIDEOS`. Where it names none, the paper's of the table that the variant fills, or of the whole set.
    """
    experiments = experiments or load_experiments()
    published = {**_published_shares(experiments), **shares}
    found: dict[tuple[str, int], Planned] = {}
    for name, one in experiments.runs(profile, names, seed, seeds):
        variant = experiments.variant(name)
        begun = found.get((variant.start, one))
        scaled = variant.at(profile)
        if variant.steps_of:
            scaled = scaled.taking(sum(each.steps for each in found[variant.steps_of, one].trainings))
        found[name, one] = _planned(profile, name, scaled, one, begun, published)
    return list(found.values())


def planned_table(runs: Iterable[Planned]) -> pd.DataFrame:
    """What is planned as a table, one row a variant and seed.

    Columns: variant, seed, start, own videos, video model's objects, videos or objects to train on, steps, finetuning
    steps; a column that says nothing is left out.
    """
    rows = []
    for run in runs:
        variant = run.scaled.variant
        row: dict[str, Any] = {"variant": run.name, "seed": run.seed, "start": variant.start}
        row["own videos"] = run.generated if variant.video_objects else None
        row["video model's objects"] = run.scaled.video_objects
        if variant.untrained:
            row["steps"] = 0
        elif variant.start is None:
            row["videos" if variant.data == "synthetic" else "objects"] = run.trainings[0].samples
            row["steps"] = run.trainings[0].steps
        if variant.finetuning is not None:
            row["objects"] = run.scaled.objects
            row["finetuning steps"] = run.trainings[-1].steps
        rows.append(row)
    columns = ["own videos", "video model's objects", "videos", "objects", "steps", "finetuning steps"]
    table = pd.DataFrame(rows).reindex(columns=["variant", "seed", "start", *columns])
    return table.astype(dict.fromkeys(columns, "Int64")).dropna(axis=1, how="all").astype(object).fillna("")


def _planned(
    profile: Profile, name: str, scaled: Scaled, seed: int, begun: Planned | None, shares: Mapping[str, float]
) -> Planned:
    variant = scaled.variant
    generated = begun and begun.generated
    if variant.untrained:
        trainings = ()
    elif begun is not None:
        trainings = begun.trainings
    elif variant.data == "3d":
        objects = profile.data.objects_3d
        trainings = (Training(scaled.training.on(objects), objects, ("objects", None, None), seed),)
    else:
        generated = min(scaled.generated or main_videos(profile), main_videos(profile))
        share = shares.get(ALL_VIDEOS if scaled.generated is None else name, KEPT)
        good = round(share * generated)
        samples = min(max(FEWEST, good), scaled.videos or generated)
        whole = scaled.generated is None and FEWEST <= good == samples
        made_by = (scaled.video_objects, variant.second_video_model)
        data = ("videos",) if whole else ("videos", made_by, scaled.generated, samples, seed)
        trainings = (Training(scaled.training.on(samples), samples, data, seed),)
    if scaled.finetuning is not None:
        asked = variant.finetuning
        objects = scaled.objects
        chosen = None if objects == profile.data.objects_3d else (objects, asked.chosen)
        views = None if asked.views == profile.data.views_3d else asked.views
        recipe = scaled.finetuning.on(objects)
        trainings += (Training(recipe, objects, ("objects", chosen, views), seed, trainings[-1]),)
    return Planned(name, seed, scaled, generated, trainings)


def _published_shares(experiments: Experiments) -> dict[str, float]:
    """The share of good videos by variant, where the paper gives one for the row of a table that it fills (Table 3)."""
    found = {}
    for table, rows in experiments.tables.items():
        with contextlib.suppress(ValueError):  # a table of one's own
            published = {row["name"]: row for row in paper_table(table).rows}
            rates = {name: published.get(row, {}).get("good_rate") for row, name in rows.items()}
            found |= {name: rate / 100 for name, rate in rates.items() if rate is not None}
    return found
