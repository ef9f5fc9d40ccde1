"""The paper's numbers beside ours, as CSV, Markdown, and a picture.

A comparison is a DataFrame with one row a method and two levels of columns: the metric, then where the number comes
from: "paper", the profile ours were measured at, and that profile's standard deviation where several seeds were run.

    >>> scores = mean_over_objects(evaluate_3d(...))
    >>> table = compare(scores, paper_table("table_4").rows, profile="laptop", label="Components")
    >>> write_table(table, folder / "table_4", caption="...")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure

from vfusion3d.evaluation.figures import page, paper_style, save, text_width
from vfusion3d.runs.claim import write_whole

# How a metric is shown: its name with the direction of better, decimals, and whether more is better.
METRICS = {
    "psnr": ("PSNR ↑", 2, True),
    "ssim": ("SSIM ↑", 3, True),
    "lpips": ("LPIPS ↓", 3, False),
    "clip_text": ("CLIP text sim. ↑", 3, True),
    "clip_image": ("CLIP image sim. ↑", 3, True),
    "good_rate": ("Good rate (%) ↑", 1, True),
    "quality": ("Quality (%) ↑", 1, True),
    "faithfulness": ("Faithfulness (%) ↑", 1, True),
}
SURE = 2.0  # standard errors beyond which a difference is more than luck with the test items
NUMBERS = Path(__file__).with_name("paper_numbers.yaml")


@dataclass(frozen=True)
class PaperTable:
    """A published table: section and caption of the paper, heading of the first column, rows of `name` and metrics."""

    section: str
    caption: str
    label: str
    rows: list[dict[str, str | float]]


def paper_table(name: str) -> PaperTable:
    """The published numbers under `name`: "table_1" to "table_6", or "figure_5". Rates are percent."""
    tables = yaml.safe_load(NUMBERS.read_text(encoding="utf-8"))
    if name not in tables:
        raise ValueError(f"the paper has no {name!r}: choose one of {', '.join(tables)}")
    return PaperTable(**tables[name])


def mean_over_objects(results: pd.DataFrame) -> pd.DataFrame:
    """From one row per object (and seed) to one row per method: mean of every metric, and `METRIC_std` over seeds.

    `results`: what `evaluate_3d` returned, or several of them one below the other with a column `seed`. The standard
    deviation (n - 1) is that of the seeds' means, and is there only if there are several seeds.
    Returns a table indexed by method, in the order in which the methods first appear.
    """
    metrics = [metric for metric in METRICS if metric in results]
    seeded = results if "seed" in results else results.assign(seed=0)
    per_seed = seeded.groupby(["method", "seed"], sort=False)[metrics].mean()
    scores = per_seed.groupby("method", sort=False).mean()
    if seeded["seed"].nunique() > 1:
        scores = scores.join(per_seed.groupby("method", sort=False).std().add_suffix("_std"))
    return scores


def differences(results: pd.DataFrame, method: str) -> pd.DataFrame:
    """How far `method` is ahead of every other one, item by item: all of them saw the same items.

    results: one row per item (`key`) and method. Returns one row per other method and metric: `than`, `metric`,
    `difference` (the mean over the items, ours minus theirs), `error` (its standard error), `verdict` ("ahead" or
    "behind" by more than two standard errors, else "draw": which way is better depends on the metric) and `text`, all
    of it in words. Raises ValueError where `method` has no results.
    """
    if method not in set(results["method"]):
        raise ValueError(f"{method!r} has no results, only {', '.join(results['method'].unique())}")
    others = [name for name in results["method"].unique() if name != method]
    rows = []
    for metric in (metric for metric in METRICS if metric in results):
        _, decimals, more = METRICS[metric]
        scores = results.pivot(index="key", columns="method", values=metric)
        for name in others:
            mean, error, _ = paired_difference(scores[method], scores[name])
            better = mean if more else -mean
            verdict = "ahead" if better > SURE * error else "behind" if better < -SURE * error else "draw"
            text = f"{mean:+.{decimals}f} ± {error:.{decimals}f}, {verdict}"
            rows.append((name, metric, mean, error, verdict, text))
    return pd.DataFrame(rows, columns=["than", "metric", "difference", "error", "verdict", "text"])


def paired_difference(ours: pd.Series, theirs: pd.Series) -> tuple[float, float, int]:
    """Ours minus theirs over the items that both have: the mean, its standard error, and how many items there are."""
    ahead = (ours - theirs).dropna()
    return ahead.mean(), ahead.sem(), len(ahead)


def ahead_of(found: pd.DataFrame, others: Sequence[str], metrics: Sequence[str]) -> str:
    """Whether the numbers support "ahead of all of `others` in all of `metrics`", in words.

    found: what `differences` returned. "yes: ..." with those that took part, "no: ..." with every exception, or "not
    tested: ..." where none of them did.
    """
    tested = found[found["than"].isin(others) & found["metric"].isin(metrics)]
    if tested.empty:
        return f"not tested: {', '.join(others)} did not take part" if others else "not tested: nobody took part"
    exceptions = [
        f"{'behind' if row.verdict == 'behind' else 'a draw with'} {row.than} in {METRICS[row.metric][0][:-2]}"
        for row in tested.itertuples()
        if row.verdict != "ahead"
    ]
    return f"no: {'; '.join(exceptions)}" if exceptions else f"yes: ahead of {', '.join(tested['than'].unique())}"


def compare(
    ours: pd.DataFrame, paper: Sequence[dict[str, str | float]], *, profile: str, label: str = "Method"
) -> pd.DataFrame:
    """Our scores beside the paper's, row by row; a number that one side does not have stays empty (NaN).

    ours: indexed by the rows' names, a column per metric and optionally `METRIC_std` (`mean_over_objects` gives this).
    paper: rows of `name` and metrics (`paper_table(...).rows`). profile: where ours were measured.
    The paper's rows come first and in its order, then the rows that only we have.
    """
    published = pd.DataFrame(paper).set_index("name") if paper else pd.DataFrame()
    names = [*published.index, *(name for name in ours.index if name not in published.index)]
    columns = {}
    for metric in METRICS:
        if metric in published:
            columns[metric, "paper"] = published[metric].reindex(names)
        if metric in ours:
            columns[metric, profile] = ours[metric].reindex(names)
        if f"{metric}_std" in ours:
            columns[metric, f"{profile} std"] = ours[f"{metric}_std"].reindex(names)
    if not columns:
        raise ValueError(f"nothing to compare: neither side has one of the metrics {', '.join(METRICS)}")
    return pd.DataFrame(columns, index=pd.Index(names, name=label))


def to_markdown(table: pd.DataFrame) -> str:
    """The comparison as a Markdown table for a notebook; the best number of each column is bold."""
    headings = [table.index.name, *(f"{METRICS[metric][0]}<br>{source}" for metric, source in _shown(table))]
    lines = ["| " + " | ".join(headings) + " |", "| :-- |" + " --: |" * (len(headings) - 1)]
    for name, cells in _cells(table):
        lines.append("| " + " | ".join([name, *(f"**{text}**" if best else text for text, best in cells)]) + " |")
    return "\n".join(lines) + "\n"


def render_table(table: pd.DataFrame, caption: str = "") -> Figure:
    """The comparison as a picture, in the manner of the paper's tables; the best number of each column is bold."""
    shown, rows = _shown(table), list(_cells(table))
    first = 0.15 + max(text_width(str(name)) for name in [table.index.name, *table.index])
    widths = _column_widths(shown, rows)
    width, line = max(first + sum(widths), text_width(caption) + 0.1 if caption else 0), 0.19
    first = width - sum(widths)
    height = line * (len(rows) + 2 + 1.2 * bool(caption)) + 0.1
    with paper_style():
        figure, axes = page(width, height)
        top = 0.05
        if caption:
            axes.text(0.02, top + 0.5 * line, caption, va="center", style="italic", parse_math=False)
            top += 1.2 * line
        edges = [first + sum(widths[:column]) for column in range(len(widths) + 1)]
        axes.text(0.05, top + line, table.index.name, va="center")
        for metric in dict.fromkeys(metric for metric, _ in shown):
            mine = [column for column, (other, _) in enumerate(shown) if other == metric]
            left, right = edges[mine[0]] + 0.06, edges[mine[-1] + 1] - 0.06
            axes.text((left + right) / 2, top + 0.5 * line, METRICS[metric][0], ha="center", va="center")
            axes.plot([left, right], [top + line] * 2, color="0.6", lw=0.5, ls="-")
        for column, (_, source) in enumerate(shown):
            middle = (edges[column] + edges[column + 1]) / 2
            axes.text(middle, top + 1.5 * line, source, ha="center", va="center", color="0.35", parse_math=False)
        for row, (name, cells) in enumerate(rows):
            y = top + (2.5 + row) * line
            axes.text(0.05, y, name, va="center", parse_math=False)
            for column, (text, best) in enumerate(cells):
                middle = (edges[column] + edges[column + 1]) / 2
                axes.text(middle, y, text, ha="center", va="center", weight="bold" if best else "normal")
        for y, thickness in ((top, 1.0), (top + 2 * line, 0.6), (top + (2 + len(rows)) * line, 1.0)):
            axes.plot([0, width], [y, y], color="black", lw=thickness, ls="-", clip_on=False)
    return figure


def write_table(table: pd.DataFrame, path: str | Path, caption: str = "") -> list[Path]:
    """Write the comparison as `path` .csv (columns METRIC/SOURCE), .md, .pdf and .png, each whole or not at all."""
    path = Path(path)
    flat = table.set_axis([f"{metric}/{source}" for metric, source in table.columns], axis=1)
    texts = {".csv": flat.to_csv(lineterminator="\n", float_format="%.6g"), ".md": to_markdown(table)}
    written = []
    for suffix, text in texts.items():
        target = path.with_name(path.name + suffix)
        written.append(write_whole(target, partial(Path.write_text, data=text, encoding="utf-8")))
    return written + save(render_table(table, caption), path)


def _shown(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The columns that get a place of their own: a standard deviation is shown behind its mean."""
    return [(metric, source) for metric, source in table.columns if not source.endswith(" std")]


def _cells(table: pd.DataFrame):
    """Every row as (name, [(text, is the best of its column), ...])."""
    best = {}
    for column in _shown(table):
        decimals, more = METRICS[column[0]][1:]
        numbers = table[column].dropna().round(decimals)
        best[column] = (numbers.max() if more else numbers.min()) if len(numbers) > 1 else None
    for name, row in table.iterrows():
        cells = []
        for metric, source in _shown(table):
            decimals = METRICS[metric][1]
            number, spread = row[metric, source], row.get((metric, f"{source} std"))
            text = "\u2013" if pd.isna(number) else f"{number:.{decimals}f}"
            if spread is not None and not pd.isna(spread):
                text += f" ± {spread:.{decimals}f}"
            cells.append((text, not pd.isna(number) and round(number, decimals) == best[metric, source]))
        yield str(name), cells


def _column_widths(shown: list[tuple[str, str]], rows: list) -> list[float]:
    """Inches a column: wide enough for its numbers, and together for the metric's name above them."""
    widths = []
    for column, (metric, source) in enumerate(shown):
        together = sum(other == metric for other, _ in shown)
        heading = (text_width(METRICS[metric][0]) + 0.14) / together
        numbers = [text_width(cells[column][0], weight="bold") for _, cells in rows]
        widths.append(max(heading, 0.22 + max([text_width(source), *numbers])))
    return widths
