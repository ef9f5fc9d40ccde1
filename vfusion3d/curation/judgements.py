"""Judgements of videos, good or bad, in a file that is written after each of them: what the filter learns from.

A CSV table with the columns `key` (of the video), `good` (yes or no), `judge` (who said so) and `videos` (the
fingerprint of the shards, for keys alone say nothing: other videos have the same). It can be read, sorted and corrected
by hand; what a hand can get wrong is an error that names the line.
"""

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from vfusion3d.data.shards import Shards
from vfusion3d.runs.claim import short_name, write_whole
from vfusion3d.runs.lock import hold

JUDGEMENTS = "judgements.csv"
OLD = "annotations.csv"  # what earlier versions called it
SIMULATED = "simulated 2"  # the judge that is no person (`vfusion3d.stand_ins.judge`), and its version
WORDS = {"yes": True, "no": False}


class JudgementError(ValueError):
    """A file of judgements that cannot be used; the message names the file, the line and what is wrong with it."""


@dataclass(frozen=True)
class Judgement:
    """What somebody said of one video."""

    key: str
    good: bool
    judge: str

    @property
    def simulated(self) -> bool:
        """Whether no person said it, but some version of the simulated judge."""
        return self.judge.startswith(SIMULATED.split()[0])


class _Row(NamedTuple):
    key: str
    good: str
    judge: str
    videos: str


COLUMNS = _Row._fields
OLD_COLUMNS = ("key", "good", "annotator", "videos")


class Judgements:
    """The judgements of some videos: at most one a video, in the order in which they were made.

    path: the file, which need not exist yet. videos: what is judged. set_aside: where the file holds judgements of
    other videos only, rename it to `judgements-FINGERPRINT.csv` and begin a new one, so that nothing that a person
    did is lost. Raises JudgementError for a file that names unknown, doubled or other videos, and for any other word
    than yes and no.
    """

    def __init__(self, path: str | Path, videos: Shards, *, set_aside: bool = False):
        self.path = Path(path)
        self.fingerprint = videos.fingerprint
        self._places = {key: place for place, key in enumerate(videos.keys)}
        if self.path.name == JUDGEMENTS and not self.path.exists() and self.path.with_name(OLD).exists():
            os.replace(self.path.with_name(OLD), self.path)
        rows = _read(self.path) if self.path.exists() else []
        others = {row.videos for _, row in rows} - {self.fingerprint}
        if set_aside and len(others) == 1 and all(row.videos in others for _, row in rows):
            os.replace(self.path, self.path.with_stem(f"{self.path.stem}-{others.pop()}"))
        self._load()

    def __len__(self) -> int:
        return len(self._made)

    def __contains__(self, key: str) -> bool:
        return key in self._made

    def get(self, key: str) -> Judgement | None:
        """What was said of a video, if anything."""
        return self._made.get(key)

    def judge(self, key: str, good: bool, judge: str) -> None:
        """Write a judgement; one that was made of this video before is replaced. ValueError: no such video."""
        self.judge_all([Judgement(key, bool(good), judge)])

    def judge_all(self, judgements: Iterable[Judgement]) -> None:
        """Write several judgements at once: all of them or, where the disk is full, none.

        They come to what another process has written meanwhile.
        """
        new = {judgement.key: judgement for judgement in judgements}
        for key in new.keys() - self._places.keys():
            raise ValueError(f"there is no video {key!r} to judge")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with hold(self.path.with_name(f".{self.path.name}.lock"), wait=10.0):
            self._load()
            made = self._made | new
            rows = [(key, "yes" if one.good else "no", one.judge, self.fingerprint) for key, one in made.items()]
            table = pd.DataFrame(rows, columns=COLUMNS)
            write_whole(self.path, partial(table.to_csv, index=False, lineterminator="\n"))
        self._made = made

    def _load(self) -> None:
        self._made: dict[str, Judgement] = {}
        for line, row in _read(self.path) if self.path.exists() else []:
            self._check(line, row)
            self._made[row.key] = Judgement(row.key, WORDS[row.good], row.judge)

    def arrays(self) -> tuple[Int[np.ndarray, "judged"], Bool[np.ndarray, "judged"]]:
        """Which videos are judged, as places among the videos in rising order, and whether each is good."""
        places = np.array(sorted(self._places[key] for key in self._made), int)
        keys = list(self._places)
        return places, np.array([self._made[keys[place]].good for place in places], bool)

    @property
    def digest(self) -> str:
        """A short name of what was said of which video, whoever said it and in whatever order."""
        said = sorted((key, made.good) for key, made in self._made.items())
        return short_name(json.dumps(said))

    def _check(self, line: int, row: _Row) -> None:
        where = f"{self.path}, line {line}"
        if row.videos != self.fingerprint:
            raise JudgementError(
                f"{where}: is a judgement of other videos ({row.videos}; these are {self.fingerprint}): "
                "give another file, or move this one away"
            )
        if row.key not in self._places:
            raise JudgementError(
                f"{where}: there is no video {row.key!r}; the keys are like {next(iter(self._places))!r}"
            )
        if row.key in self._made:
            raise JudgementError(f"{where}: judges video {row.key!r} a second time: keep one of the two lines")
        if row.good not in WORDS:
            raise JudgementError(f"{where}: good must be yes or no, not {row.good!r}")


def _read(path: Path) -> list[tuple[int, _Row]]:
    if not path.is_file():
        raise JudgementError(f"{path} is no file: judgements are a CSV table, move it away")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a table editor may begin a file with a mark
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if tuple(header) not in (COLUMNS, OLD_COLUMNS):
                raise JudgementError(f"{path}: the first line must be {','.join(COLUMNS)}, not {','.join(header)!r}")
            rows = []
            for cells in reader:
                if len(cells) not in (0, len(COLUMNS)):
                    raise JudgementError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells in place of {len(COLUMNS)}"
                    )
                if cells:
                    rows.append((reader.line_num, _Row(*map(str.strip, cells))))
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise JudgementError(f"{path} is not a CSV table in UTF-8 ({error})") from error
