"""From the scores of variants to a table and to what it says: our rows, and verdicts on the paper's claims.

Every variant answers the same questions (the same objects, input views and prompts) with the same seeds, so two of them
are compared pair by pair (`significance.py`).
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
from vfusion3d.evaluation.tables import METRICS, mean_over_objects, paper_table
from vfusion3d.experiments.run import Result, read_result
from vfusion3d.experiments.significance import FEWEST_SEEDS, LEVEL, Difference, compare, holm, paired, seeds_needed
from vfusion3d.experiments.variants import load_experiments, seeds_of
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.profiles import Profile

CLAIMED = {"ahead": "supported", "behind": "contradicted", "draw": "undecided"}  # of a difference with its own error
MARGINS = {"psnr": 0.2, "ssim": 0.005, "lpips": 0.005}  # differences that count as none, stated before any run
DECIDING = ("psnr", "ssim")  # what verdicts stand on; LPIPS and CLIP, whose networks are small here, are shown
BEFORE = "before training"  # the first row of every table: no step was taken
TRUSTED = 20  # test items from which a standard error can be trusted


@dataclass(frozen=True)
class Claim:
    """What the paper concludes from two rows of a table: by `metric`, row `better` beats row `worse`.

    margin: with one, the claim is that the rows do not differ by more, either way; say it before the run.
    """

    text: str
    better: str
    worse: str
    metric: str
    margin: float | None = None


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
    """Each claim with the paper's difference, ours, and whether ours supports it, contradicts it, or does not decide.

    A claim of no difference can be "equivalent". p: corrected for the number of claims; of a difference, or of one
    beyond the margin. seeds needed: to find the difference that was seen with a power of 80%. `table`: the paper's
    numbers (`tables.paper_table`); it has none of a row of one's own. Raises ValueError where a row has no scores.
    """
    published = pd.DataFrame(paper_table(table).rows).set_index("name")
    found = [compare(paired(scores, one.better, one.worse, one.metric), one.margin) for one in claims]
    different = holm([one.p for one in found])
    alike = holm([one.equivalence for one in found])
    rows = []
    for claim, ours, p, equivalence in zip(claims, found, different, alike, strict=True):
        name, decimals, _ = METRICS[claim.metric]
        theirs = published.get(claim.metric, pd.Series(dtype=float))
        paper = theirs.get(claim.better, np.nan) - theirs.get(claim.worse, np.nan)
        rows.append(
            {
                "claim": claim.text,
                "rows": f"{claim.better} minus {claim.worse}",
                "metric": name,
                "paper": "–" if np.isnan(paper) else f"{paper:+.{decimals}f}",
                "ours": f"{ours.mean:+.{decimals + 1}f} ± {ours.error:.{decimals + 1}f}",
                "seeds": ours.seeds,
                "items": ours.items,
                "p": _in_digits(p if claim.margin is None else equivalence, "{:.3f}"),
                "seeds needed": _in_digits(np.ceil(seeds_needed(ours)), "{:.0f}"),
                "decides": claim.metric in DECIDING,
                "verdict": _verdict(claim, ours, p, equivalence),
            }
        )
    return pd.DataFrame(rows)


def _in_digits(number: float, digits: str) -> str:
    return digits.format(number) if np.isfinite(number) else "–"


def _verdict(claim: Claim, ours: Difference, p: float, equivalence: float) -> str:
    if claim.margin is not None:
        beyond = p < LEVEL and abs(ours.mean) > claim.margin
        return "equivalent" if equivalence < LEVEL else "contradicted" if beyond else "undecided"
    if not p < LEVEL:
        return "undecided"
    return "supported" if (ours.mean > 0) == METRICS[claim.metric][2] else "contradicted"


def as_markdown(rows: pd.DataFrame) -> str:
    """Rows of words as a Markdown table, which wraps what is long."""
    lines = [rows.columns, ["--"] * len(rows.columns), *rows.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def in_words(found: pd.DataFrame, profile: Profile) -> str:
    """A paragraph in Markdown: which of the claims in a table of `verdicts` hold at this profile, and which do not.

    It goes by the metrics that decide, where the table has any.
    """
    found = found[found["decides"]] if found["decides"].any() else found
    intros = {
        "supported": "the numbers support that",
        "equivalent": "the numbers say, within the margin, that",
        "contradicted": "the numbers contradict that",
        "undecided": "the numbers do not decide whether",
    }
    lines = []
    for kind, intro in intros.items():
        mine = found[found["verdict"] == kind].assign(seen=lambda rows: rows["metric"].str[:-2] + " " + rows["ours"])
        said = mine.groupby("claim", sort=False)["seen"].agg(", ".join)
        if len(said):
            lines.append(f"- **{kind}**: {intro} " + "; ".join(f"{claim} ({seen})" for claim, seen in said.items()))
    doubt = ""
    if (seeds := found["seeds"].min()) < FEWEST_SEEDS:
        doubt += f"\nNothing is decided with {seeds} training a row: it takes {FEWEST_SEEDS} to see how they differ.\n"
    if (few := found["items"].min()) < TRUSTED:
        doubt += f"\nWith only {few} test items, a standard error is itself a guess.\n"
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
