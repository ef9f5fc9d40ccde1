"""The user study of section 4.2: which of two turning objects is better, and which is truer to the picture?

A rater sees two 360 degree videos of the same item, one by VFusion3D and one by another method, side by side and
without names, and has to choose one. Order and sides are each rater's own. Answers are CSV files, one a rater, one line
an answer, so that a study goes on where it stopped, and several are put together by copying files.

There is no button for a tie. Where as many raters chose one as the other (an even number of raters, or a study that is
not finished), the item counts as half a win: `majority`.
"""

import codecs
import csv
import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from vfusion3d.evaluation.figures import BLUE, ORANGE, TEXT_WIDTH, paper_style
from vfusion3d.evaluation.methods import TURN_FRAMES, MethodFolderError, read_turn, write_turn
from vfusion3d.foundations.background_removal import ImageError
from vfusion3d.model.preprocess import load_image
from vfusion3d.runs.claim import naming_a_full_disk
from vfusion3d.runs.layout import TASKS, evaluation_items, other_methods, rendered_views, user_study
from vfusion3d.runs.local_server import PageError
from vfusion3d.runs.lock import hold
from vfusion3d.runs.reading import read_table

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # nothing of ffmpeg's own about a broken file: our error names it

OURS = "VFusion3D"
RATERS = 5
QUESTIONS = ("quality", "faithfulness")
COLUMNS = ("rater", "task", "key", "baseline", "question", "left", "winner")
SAME = ["task", "key", "baseline", "question"]  # what makes two answers of a rater answers to the same question
PLAYABLE = ("h264", "avc1", "vp80", "vp90", "vp09", "av01")  # what browsers play
CONVERTED_SIZE = 384  # pixels of videos made from pictures
SHOWN = 8  # problems that an error lists


class StudyError(PageError):
    """A study that cannot start, or an answer that is none; the message names what is wrong."""


@dataclass(frozen=True)
class Item:
    """An input picture, its caption, and each method's video of what it made of it."""

    task: str
    key: str
    caption: str
    picture: Path
    videos: dict[str, Path]


@dataclass(frozen=True)
class Comparison:
    """One question to one rater: VFusion3D against `baseline`, one of them on the left."""

    item: Item
    baseline: str
    question: str
    left: str

    @property
    def right(self) -> str:
        """The method on the right."""
        return self.baseline if self.left == OURS else OURS

    @property
    def same(self) -> tuple[str, str, str, str]:
        """What makes two answers of a rater answers to the same question: the values of the columns `SAME`."""
        return (self.item.task, self.item.key, self.baseline, self.question)


# ---------------------------------------------------------------------------------------------- what there is to show


def load_items(
    run_dir: str | Path, against: Sequence[str] | None = None, tasks: Sequence[str] = tuple(TASKS)
) -> list[Item]:
    """The items of a run, with the videos of VFusion3D and of the methods it is compared with.

    against: names of methods; by default all others that have a folder in every task, in `layout.rendered_views` or in
    `layout.other_methods`. What browsers cannot play there (pictures, GIFs) is made a video in the study's folder.
    Raises StudyError that names every picture or video that is missing, broken, or not playable in a browser, so that
    nobody begins a study that cannot be finished; and ReadingError for captions that cannot be read.
    """
    run_dir = Path(run_dir)
    problems: list[str] = []
    for name in against or ():
        if name == OURS or not is_plain(name):
            raise StudyError(
                f"against {name!r}: it cannot be compared with {OURS}: name folders of {run_dir}/views or methods"
            )
    needed = ((evaluation_items.missing(run_dir, task) or rendered_views.missing(run_dir, task)) for task in tasks)
    problems += filter(None, needed)
    _stop(problems)
    if against is None:
        against = sorted(set.intersection(*(set(_methods(run_dir, task)) for task in tasks)) - {OURS})
        if not against:
            problems.append(f"{run_dir}/views has no method beside {OURS} in {' and '.join(tasks)}")
    items = []
    for task in tasks:
        for key, caption in _captions(evaluation_items(run_dir, task) / "captions.csv"):
            picture = evaluation_items(run_dir, task) / f"{key}.png"
            videos = {name: _video(run_dir, task, name, key, problems) for name in (OURS, *against)}
            items.append(Item(task, key, caption, picture, videos))
            found = [picture_problem(picture), *map(video_problem, videos.values())]
            problems += [problem for problem in found if problem]
    _stop(problems if items else [f"{run_dir}/items has no items in {' and '.join(tasks)}"])
    return items


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file in a folder, and stand in a line of CSV: no path, no control characters."""
    return bool(re.fullmatch(r"[^.\x00-\x1f\x7f-\x9f\ud800-\udfff/\\][^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\]*", name))


def picture_problem(path: Path) -> str:
    """What keeps a picture from being shown; "" if nothing does."""
    if not path.is_file():
        return f"{path} does not exist"
    try:
        load_image(path)
    except ImageError:
        return f"{path} is no picture, or damaged"
    return ""


def video_problem(path: Path) -> str:
    """What keeps a video from being shown in a browser; "" if nothing does."""
    if not path.is_file():
        return f"{path} does not exist"
    video = cv2.VideoCapture(str(path))
    frames = sum(1 for _ in iter(lambda: video.read()[0], False))
    said = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if not frames or frames < said:
        return f"{path} is broken: only {frames} of {max(said, 1)} frames can be read"
    codec = int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode(errors="replace").lower()
    return "" if codec in PLAYABLE else f"{path} is coded as {codec.strip()}, which browsers do not play: use H.264"


def read_video(path: Path) -> Float[Tensor, "frames 3 h w"]:
    """All frames of a video as a browser shows them, in [0, 1] (`evaluation.methods.read_turn` is slower and stricter).

    Raises StudyError where there are none.
    """
    video = cv2.VideoCapture(str(path))
    frames = []
    while (frame := video.read())[0]:
        frames.append(torch.from_numpy(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)))
    if not frames:
        raise StudyError(f"{path} is broken: no frame of it can be read")
    return torch.stack(frames).movedim(-1, 1).float() / 255


# ------------------------------------------------------------------------------------------------------- the questions


def comparisons(items: Sequence[Item], rater: str, seed: int = 0) -> list[Comparison]:
    """Every question about every item, in an order and with sides of the rater's own.

    Both follow from a hash of rater and question, so the same rater always meets the same, and a study that gets more
    items later keeps the order of the old ones.
    """
    drawn = []
    for item in items:
        for baseline in sorted(item.videos.keys() - {OURS}):
            for question in QUESTIONS:
                text = "/".join([str(seed), rater, item.task, item.key, baseline, question])
                digest = hashlib.sha256(text.encode()).digest()
                left = OURS if digest[-1] % 2 else baseline
                drawn.append((digest, Comparison(item, baseline, question, left)))
    return [comparison for _, comparison in sorted(drawn, key=lambda pair: pair[0])]


# --------------------------------------------------------------------------------------------------------- the answers


def checked_rater(rater: str) -> str:
    """A rater's name, which also names a file. Raises StudyError for one that cannot."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", rater):
        raise StudyError(f"{rater[:60]!r} cannot be a rater's name: use up to 40 letters, digits, - and _")
    return rater


def add_answer(folder: str | Path, rater: str, comparison: Comparison, choice: str) -> Path:
    """Write one answer, "left" or "right", to the end of the rater's file, and see it on the disk.

    What a crash left of a line is cut off first. A question may be answered again: the last answer counts. Several
    processes may write at once. Raises StudyError for a choice that is none and where the file holds something else.
    """
    if choice not in ("left", "right"):
        raise StudyError(f"the answer is left or right, not {choice[:40]!r}")
    path = Path(folder) / f"{checked_rater(rater)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    winner = comparison.left if choice == "left" else comparison.right
    with hold(path.with_name(f".{path.name}.lock"), wait=10.0), naming_a_full_disk(path):
        if path.exists():
            _answers_in(path)  # nothing is cut off of a file that is none of ours
        with path.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(COLUMNS)
            writer.writerow([rater, *comparison.same, comparison.left, winner])
            file.flush()
            os.fsync(file.fileno())
    return path


def read_answers(folder: str | Path) -> pd.DataFrame:
    """The answers of all raters whose files lie in `folder`: the columns `COLUMNS`, one row a rater and question.

    Raises StudyError that names the file and the line of an answer that is none.
    """
    rows = [row for path in sorted(Path(folder).glob("*.csv")) for row in _answers_in(path)]
    answers = pd.DataFrame(rows, columns=COLUMNS, dtype=str)
    return answers.drop_duplicates(["rater", *SAME], keep="last", ignore_index=True)


def _answers_in(path: Path) -> list[list[str]]:
    """The rows of one rater's file. Its last line may be half of one, after a crash: then it does not count."""
    if not path.is_file():
        raise StudyError(f"{path} is no file: answers are CSV files, take it out of the folder")
    rows = []
    *lines, rest = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    if not lines and not ",".join(COLUMNS).encode().startswith(rest):
        lines = [rest]
    for number, line in enumerate(lines, 1):
        try:
            (row,) = csv.reader([line.decode().removesuffix("\r")], strict=True)
        except (ValueError, csv.Error) as error:
            raise StudyError(f"{path}, line {number} is no answer ({error}): take the line out") from error
        if number == 1 and tuple(row) != COLUMNS:
            raise StudyError(f"{path} holds no answers: its first line has to be {','.join(COLUMNS)}")
        if number > 1:
            if problem := _no_answer(row, path.stem):
                raise StudyError(f"{path}, line {number}: {ascii(','.join(row)[:200])[1:-1]} is no answer ({problem})")
            rows.append(row)
    return rows


def _no_answer(row: list[str], rater: str) -> str:
    """What keeps a row of a rater's file from being an answer; "" if nothing does."""
    if len(row) != len(COLUMNS):
        return f"{len(row)} cells, not {len(COLUMNS)}"
    name, task, key, baseline, question, *methods = row
    if name.casefold() != rater.casefold():
        return f"the rater of this file is {rater}"
    if task not in TASKS or question not in QUESTIONS:
        return f"the tasks are {', '.join(TASKS)}, the questions {', '.join(QUESTIONS)}"
    if not is_plain(key) or not is_plain(baseline) or baseline == OURS:
        return f"it needs the key of an item and a method beside {OURS}"
    return "" if {*methods} <= {OURS, baseline} else f"left and winner are {OURS} or {baseline}"


# --------------------------------------------------------------------------------------------------------- the results


def majority(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per item, baseline and question: what most raters chose.

    `win`: 1 where most chose VFusion3D, 0 where most chose the baseline, a half where as many chose one as the other.
    `raters`: how many answered. `agreement`: the share of them on the side of the majority, between 0.5 and 1.
    """
    votes = answers.assign(ours=(answers["winner"] == OURS).astype(float))
    share = votes.groupby(SAME, sort=False)["ours"].agg(["mean", "size"]).reset_index()
    win = np.sign(share["mean"] - 0.5) / 2 + 0.5
    agreement = np.maximum(share["mean"], 1 - share["mean"])
    return share[SAME].assign(win=win, raters=share["size"], agreement=agreement)


def win_rates(
    answers: pd.DataFrame, generator: np.random.Generator, *, resamples: int = 10_000, level: float = 0.95
) -> pd.DataFrame:
    """How often VFusion3D wins, in percent of the items, by the majority of the raters (Figure 5).

    The confidence interval is a percentile bootstrap over items: raters are few and their answers to the same item go
    together, so it is the items that are drawn again. Where every item is won (or lost) there is nothing to draw, and
    the interval has no width; then up to 3 / items of all items may still be lost (the rule of three).
    Returns one row per baseline and question: `items`, `raters` (most that answered an item), `rate`, `low`, `high`,
    `agreement`. Raises StudyError without answers.
    """
    if answers.empty:
        raise StudyError("nobody has answered yet")
    rows = []
    for (baseline, question), items in majority(answers).groupby(["baseline", "question"], sort=False):
        wins = 100 * items["win"].to_numpy()
        means = wins[generator.integers(len(wins), size=(resamples, len(wins)))].mean(axis=1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        row = {"baseline": baseline, "question": question, "items": len(wins), "raters": items["raters"].max()}
        rows.append(row | {"rate": wins.mean(), "low": low, "high": high, "agreement": items["agreement"].mean()})
    order = {name: place for place, name in enumerate(QUESTIONS)}
    rows.sort(key=lambda row: (row["baseline"], order[row["question"]]))
    return pd.DataFrame(rows)


def plot_win_rates(paper: Sequence[dict], ours: pd.DataFrame, who: str) -> Figure:
    """Figure 5: a pair of bars for each baseline, the paper's on the left and ours, with confidence intervals, right.

    paper: rows of `name`, `quality`, `faithfulness` (`tables.paper_table("figure_5").rows`). ours: what `win_rates`
    returns. who: written above our bars; it has to say who the raters were.
    """
    names = [row["name"] for row in paper]
    mine = list(dict.fromkeys(ours["baseline"]))
    rates = ours.set_index(["baseline", "question"])
    look = {
        "quality": {"color": BLUE, "edgecolor": BLUE},
        "faithfulness": {"color": "white", "edgecolor": ORANGE, "hatch": "////"},
    }
    width = 0.38
    gap = len(names) + 0.35
    places = [*range(len(names)), *(gap + number for number in range(len(mine)))]
    with paper_style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.9), layout="constrained")
        axes = figure.add_subplot(ylabel="VFusion3D wins (% of items)", ylim=(0, 112), yticks=range(0, 101, 25))
        for number, question in enumerate(QUESTIONS):
            shift = (number - 0.5) * width
            heights = [*(row[question] for row in paper), *(rates.loc[(name, question), "rate"] for name in mine)]
            where = [place + shift for place in places]
            axes.bar(where, heights, width * 0.92, label=f"{question}", linewidth=1.0, **look[question])
            for name, x in zip(mine, where[len(names) :]):
                row = rates.loc[(name, question)]
                spread = [[row["rate"] - row["low"]], [row["high"] - row["rate"]]]
                axes.errorbar(x, row["rate"], yerr=spread, color="black", capsize=2.5, lw=0.9, ls="-")
            for x, height in zip(where, heights):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
                axes.text(x, 4, f"{height:.1f}", ha="center", va="bottom", fontsize=7.5, bbox=box)
        axes.axhline(50, color="0.3", lw=0.8, ls="--", zorder=0.5)
        axes.axvline((len(names) - 1 + gap) / 2, color="0.6", lw=0.6, ls="-")
        axes.set_xticks(places, [f"over\n{name}" for name in (*names, *mine)])
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.02)
        for first, last, text in ((0, len(names) - 1, "the paper: 5 users, 65 videos"), (gap, places[-1], who)):
            axes.text((first + last) / 2, 109, text, ha="center", va="bottom", fontsize=8.5)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _captions(path: Path) -> list[tuple[str, str]]:
    """Key and caption of every item of a task. Raises ReadingError and StudyError that name the file and the key."""
    table = read_table(path, {"key": str, "caption": str}, remedy="run the notebook again that wrote it")
    for key, caption in zip(table["key"], table["caption"]):
        if not is_plain(key):
            raise StudyError(f"{path}: {key[:60]!r} is no key: KEY.png and KEY.mp4 have to be names of files")
        if re.search(r"[\x00-\x08\x0b-\x1f]", caption):
            raise StudyError(f"{path}: the caption of {key} holds control characters: {caption[:60]!a}")
    if twice := list(table["key"][table["key"].duplicated()]):
        raise StudyError(f"{path}: the key {twice[0][:60]!r} stands twice")
    if left := sorted({file.stem for file in path.parent.glob("*.png")} - {*table["key"]}):
        raise StudyError(f"{path}: {left[0]}.png beside it has no caption: is the table whole?")
    return list(zip(table["key"], table["caption"]))


def _methods(run_dir: Path, task: str) -> dict[str, Path]:
    """The folder of each method with videos of a task."""
    roots = (other_methods(run_dir, task), rendered_views(run_dir, task))
    folders = (path for root in roots if root.is_dir() for path in root.iterdir() if path.is_dir())
    return {path.name: path for path in folders if is_plain(path.name)}


def _video(run_dir: Path, task: str, method: str, key: str, problems: list[str]) -> Path:
    """A video of a method that browsers play; made from what the method has, where that is something else."""
    folder = _methods(run_dir, task).get(method, rendered_views(run_dir, task) / method)
    path = folder / f"{key}.mp4"
    others = [] if path.exists() else sorted(folder.glob(f"{glob.escape(key)}*"))
    source = next((other for other in others if other.name == key or other.stem == key), path)
    target = user_study(run_dir) / "videos" / task / method / f"{key}.mp4"
    if source == path:
        return path
    try:
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            write_turn(read_turn(source, CONVERTED_SIZE, TURN_FRAMES), target)
    except MethodFolderError as error:
        problems.append(str(error))
    return target


def _stop(problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise StudyError("; ".join(problems[:SHOWN]) + more)
