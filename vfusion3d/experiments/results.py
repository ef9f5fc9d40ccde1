"""From the scores of variants to a table and to what it says: our rows, and verdicts on the paper's claims.

Every variant answers the same questions (the same objects, input views and prompts), so two of them are compared item
by item: the mean of the differences has a standard error, which knows the luck of the test items. It does not know the
luck of another training; that is what seeds are for.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vfusion3d.data.shards import MultiviewSample
from vfusion3d.evaluation.figures import contact_sheet
from vfusion3d.evaluation.protocol import model_predictor
from vfusion3d.evaluation.showcase import novel_views_by
from vfusion3d.evaluation.tables import METRICS, differences, mean_over_objects, paper_table
from vfusion3d.experiments.run import Result, read_result
from vfusion3d.experiments.variants import load_experiments, seeds_of
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.profiles import Profile

CLAIMED = {"ahead": "supported", "behind": "contradicted", "draw": "open"}  # what a difference says of "it is better"
TRUSTED = 20  # test items from which a standard error can be trusted


@dataclass(frozen=True)
class Claim:
    """What the paper concludes from two rows of a table: by `metric`, row `better` beats row `worse`."""

    text: str
    better: str
    worse: str
    metric: str


def read_table(profile: Profile, run_dir: str | Path, table: str, seed: int = 0) -> dict[str, list[Result]]:
    """The results of a table's rows (or a figure's points), by the paper's names, one a seed.

    Raises FileNotFoundError that names the command where one is missing, ProfileError for an unknown table.
    """
    experiments = load_experiments()
    experiments.of_table(table)
    seeds = seeds_of(profile, table, seed)
    return {row: [read_result(run_dir, name, one) for one in seeds] for row, name in experiments.tables[table].items()}


def all_scores(results: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """One row a test item, seed and row of the table, which stands in the column `method`."""
    parts = [one.scores.assign(method=row, seed=one.seed) for row, seeds in results.items() for one in seeds]
    return pd.concat(parts, ignore_index=True)


def table_rows(results: Mapping[str, Sequence[Result]], *, good_rate: bool = False) -> pd.DataFrame:
    """Our rows for `tables.compare`: the mean of each metric and its deviation over seeds.

    good_rate: with the share of generated videos that passed the filter, in percent (Table 3).
    """
    rows = mean_over_objects(all_scores(results))
    if good_rate:
        facts = made_of(results)
        rows["good_rate"] = 100 * facts["good"] / facts["generated"]
    return rows


def made_of(results: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """What each row's model was made of: counts and steps, the mean over seeds; columns that say nothing are left out.

    generated, good: videos before and after the filter. videos, objects: what was trained on. steps, finetuning_steps.
    """
    columns = ["generated", "good", "videos", "steps", "objects", "finetuning_steps"]
    rows = {row: pd.DataFrame([one.facts for one in seeds]).reindex(columns=columns) for row, seeds in results.items()}
    means = pd.DataFrame({row: counts.astype(float).mean() for row, counts in rows.items()}).T
    return means.dropna(axis=1, how="all")


def verdicts(scores: pd.DataFrame, claims: Sequence[Claim], table: str) -> pd.DataFrame:
    """Each claim with the paper's difference, ours, and whether ours supports it, contradicts it, or leaves it open.

    Open: below two standard errors. `table`: the paper's numbers (`tables.paper_table`); it has none of a row of one's
    own. Raises ValueError where a row has no scores.
    """
    published = pd.DataFrame(paper_table(table).rows).set_index("name")
    rows = []
    for claim in claims:
        name, decimals, _ = METRICS[claim.metric]
        (ours,) = differences(scores, claim.better, [claim.worse], [claim.metric]).itertuples()
        paper = published[claim.metric].get(claim.better, np.nan) - published[claim.metric].get(claim.worse, np.nan)
        rows.append(
            {
                "claim": claim.text,
                "rows": f"{claim.better} minus {claim.worse}",
                "metric": name,
                "paper": "–" if np.isnan(paper) else f"{paper:+.{decimals}f}",
                "ours": f"{ours.difference:+.{decimals + 1}f} ± {ours.error:.{decimals + 1}f}",
                "items": ours.items,
                "verdict": CLAIMED[ours.verdict],
            }
        )
    return pd.DataFrame(rows)


def as_markdown(rows: pd.DataFrame) -> str:
    """Rows of words as a Markdown table, which wraps what is long."""
    lines = [rows.columns, ["--"] * len(rows.columns), *rows.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def in_words(found: pd.DataFrame, profile: Profile) -> str:
    """A paragraph in Markdown: which of the claims in a table of `verdicts` hold at this profile, and which do not."""
    intros = {
        "supported": "the numbers support that",
        "contradicted": "the numbers contradict that",
        "open": "the numbers do not decide (below two standard errors) whether",
    }
    lines = []
    for kind, intro in intros.items():
        mine = found[found["verdict"] == kind].assign(seen=lambda rows: rows["metric"].str[:-2] + " " + rows["ours"])
        said = mine.groupby("claim", sort=False)["seen"].agg(", ".join)
        if len(said):
            lines.append(f"- **{kind}**: {intro} " + "; ".join(f"{claim} ({seen})" for claim, seen in said.items()))
    few = found["items"].min()
    doubt = f"\nWith only {few} test items, a standard error is itself a guess.\n" if few < TRUSTED else ""
    return f"At `{profile.name}`, statement by statement and metric by metric:\n\n" + ".\n".join(lines) + ".\n" + doubt


def methods_of(results: Mapping[str, Sequence[Result]], device: str | torch.device = "cpu") -> dict:
    """The model of each row's first seed as a `protocol.Predictor`; a model that two rows share is loaded once."""
    models = {one.model: VFusion3D.from_pretrained(one.model).to(device).eval() for one, *_ in results.values()}
    return {row: model_predictor(models[one.model]) for row, (one, *_) in results.items()}


def outputs_sheet(
    methods: Mapping, samples: Sequence[MultiviewSample], *, size: int, device: str | torch.device = "cpu"
) -> Figure:
    """What every model makes of the same inputs: a row an object, the input, one novel view by each model, the truth.

    The novel view stands three eighths of the orbit round from the input.
    """
    views = [novel_views_by(methods, sample, size=size, turns=(3 / 8,), device=device) for sample in samples]
    rows = [torch.cat(list(of_sample.values())) for of_sample in views]
    letters = 105 // (2 + len(methods))  # that fit above a column
    names = [textwrap.fill(name, letters, break_on_hyphens=False) for name in methods]
    return contact_sheet(torch.stack(rows), column_labels=["input", *names, "truth"])
