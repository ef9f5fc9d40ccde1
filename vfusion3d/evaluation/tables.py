"""The paper's numbers beside ours, as CSV, Markdown and LaTeX.

A comparison is a DataFrame with one row a method and two levels of columns: the metric, then where the number comes
from: "paper", the profile ours were measured at, and that profile's standard deviation where several seeds were run.

    >>> scores = mean_over_objects(evaluate_3d(...))
    >>> table = compare(scores, paper_table("table_4").rows, profile="laptop", label="Components")
    >>> write_table(table, folder / "table_4", caption="...")
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd

from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.reading import read_yaml

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
CRITICAL_VALUE = 2.0  # standard errors beyond which a difference is more than luck with the test items
SIGNS = {"↑": r"\uparrow", "↓": r"\downarrow", "±": r"\pm"}  # LaTeX's names
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
    if name not in (tables := _published()):
        raise ValueError(f"the paper has no {name!r}: choose one of {', '.join(tables)}")
    return tables[name]


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


def differences(
    results: pd.DataFrame, method: str, others: Sequence[str] | None = None, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """How far `method` is ahead of others, item by item: all of them saw the same items.

    results: one row per item (`key`, with `test` where there are several tests), method and perhaps seed; an item's
    seeds are averaged first. others, metrics: by default all there are. Returns one row per other method and metric:
    `than`, `metric`, `difference` (the mean over the items, ours minus theirs), `error` (its standard error), `items`
    (how many both have), `verdict` and `text`, all of it in words. Raises ValueError where one has no scores.
    """
    known = list(results["method"].unique())
    rows = []
    if method not in known:
        raise ValueError(f"{method!r} has no results, only {', '.join(known)}")
    others = [name for name in known if name != method] if others is None else others
    item = [name for name in ("test", "key") if name in results]
    known_metrics = [name for name in METRICS if name in results and results[name].notna().any()]
    for metric in known_metrics if metrics is None else metrics:
        _, decimals, more = METRICS[metric]
        scores = results.groupby([*item, "method"])[metric].mean().unstack("method").dropna(axis=1, how="all")
        if missing := [name for name in (method, *others) if name not in scores]:
            raise ValueError(f"there are no scores {metric} of {', '.join(missing)}")
        for name in others:
            ahead = (scores[method] - scores[name]).dropna()
            mean = ahead.mean()
            error = ahead.sem()
            found = verdict(mean, error, more)
            text = f"{mean:+.{decimals}f} ± {error:.{decimals}f}, {found}"
            rows.append((name, metric, mean, error, len(ahead), found, text))
    return pd.DataFrame(rows, columns=["than", "metric", "difference", "error", "items", "verdict", "text"])


def verdict(difference: float, error: float, more_is_better: bool) -> str:
    """What a difference with its standard error says: "ahead", "behind", or "draw" below two errors or without one."""
    gain = difference if more_is_better else -difference
    return "ahead" if gain > CRITICAL_VALUE * error else "behind" if gain < -CRITICAL_VALUE * error else "draw"


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
    The rows stand in our order where we have all of the paper's; else the paper's come first, then those that only we
    have.
    """
    published = pd.DataFrame(paper).set_index("name") if paper else pd.DataFrame()
    names = [*published.index, *(name for name in ours.index if name not in published.index)]
    if set(published.index) <= set(ours.index):
        names = list(ours.index)
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


def to_latex(table: pd.DataFrame, caption: str = "") -> str:
    """The comparison as a LaTeX table (package booktabs); the best number of each column is bold."""
    rows = dict(_cells(table))
    shown = _shown(table)
    columns = pd.MultiIndex.from_tuples([(METRICS[metric][0], source) for metric, source in shown])
    index = pd.Index(rows, name=table.index.name)
    texts = pd.DataFrame([[text for text, _ in cells] for cells in rows.values()], index, columns)
    marks = [["textbf:--rwrap" if best else "" for _, best in cells] for cells in rows.values()]
    bold = pd.DataFrame(marks, index, columns)
    styled = texts.style.format(escape="latex").apply(lambda _: bold, axis=None)
    for axis in (0, 1):
        styled = styled.format_index(escape="latex", axis=axis)
    styled = styled.format_index_names(escape="latex")
    aligned = "l" + "r" * len(columns)
    words = re.sub(r"([%&#_$])", r"\\\1", caption) or None
    written = styled.to_latex(column_format=aligned, hrules=True, multicol_align="c", caption=words)
    return written.translate({ord(sign): rf"${name}$" for sign, name in SIGNS.items()})


def write_table(table: pd.DataFrame, path: str | Path, caption: str = "") -> list[Path]:
    """Write the comparison as `path` .csv (columns METRIC/SOURCE), .md and .tex, each whole or not at all."""
    path = Path(path)
    flat = table.set_axis([f"{metric}/{source}" for metric, source in table.columns], axis=1)
    texts = {
        ".csv": flat.to_csv(lineterminator="\n", float_format="%.6g"),
        ".md": to_markdown(table),
        ".tex": to_latex(table, caption),
    }
    return [
        write_whole(path.with_name(path.name + suffix), partial(Path.write_text, data=text, encoding="utf-8"))
        for suffix, text in texts.items()
    ]


def write_scores(scores: pd.DataFrame, path: str | Path) -> Path:
    """Write scores, a row an item, as a compressed table (.csv.gz) of seven digits; the same scores, the same bytes."""
    text = scores.to_csv(index=False, lineterminator="\n", float_format="%.7g")
    return write_whole(path, partial(Path.write_bytes, data=gzip.compress(text.encode(), mtime=0)))


@cache
def _published() -> dict[str, PaperTable]:
    tables = read_yaml(NUMBERS)
    return {name: PaperTable(**table) for name, table in tables.items()}


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
            number = row[metric, source]
            spread = row.get((metric, f"{source} std"))
            text = "\u2013" if pd.isna(number) else f"{number:.{decimals}f}"
            if spread is not None and not pd.isna(spread):
                text += f" ± {spread:.{decimals}f}"
            cells.append((text, not pd.isna(number) and round(number, decimals) == best[metric, source]))
        yield str(name), cells
