"""What became of each caption, while prompts are collected: a SQLite file, so that neither memory nor a kill matters.

Notable: the rows of a batch, the keys that tell duplicates, and how far each source has been read are written in one
transaction. After a kill, the file holds whole batches and nothing else.
"""

import contextlib
import errno
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfusion3d.runs.lock import InUse

TABLES = """
BEGIN EXCLUSIVE;
CREATE TABLE IF NOT EXISTS prompts (caption TEXT, source TEXT, decision TEXT, reason TEXT, split TEXT);
CREATE TABLE IF NOT EXISTS keys (key INTEGER PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (source TEXT PRIMARY KEY, captions INTEGER);
COMMIT;
"""


@dataclass(frozen=True)
class Prompt:
    """A caption and what became of it. split: "train" or "eval" where it is kept, "" where it is dropped.

    source: where it came from. decision: "keep" or "drop". reason: why it was dropped, the step first.
    """

    caption: str
    source: str
    decision: str
    reason: str = ""
    split: str = ""


class Ledger(contextlib.AbstractContextManager):
    """The file at `path`, made where there is none. Used in a `with` block; no other process can open it meanwhile.

    trainable: how many of its prompts can be trained on. Raises OSError, with the file and what is safe, where the disk
    is full, another process has the file, or it is none of ours.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with self._errors():
            self._file = sqlite3.connect(self.path, timeout=1)
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")  # the first lock is kept until the end
            self._file.executescript(TABLES)
            (self.trainable,) = self._file.execute("SELECT count(*) FROM prompts WHERE split = 'train'").fetchone()

    def read(self, source: str) -> int:
        """How many captions of this source are in the ledger."""
        with self._errors():
            found = self._file.execute("SELECT captions FROM sources WHERE source = ?", (source,)).fetchone()
        return found[0] if found else 0

    def known(self, key: str) -> bool:
        """Whether this key was written before."""
        with self._errors():
            return self._file.execute("SELECT 1 FROM keys WHERE key = ?", (_number(key),)).fetchone() is not None

    def write(self, source: str, prompts: Sequence[Prompt], keys: Sequence[str] = ()) -> None:
        """Add the next captions of a source, and keys to know: all of it, or after a kill nothing of it."""
        rows = [(p.caption, p.source, p.decision, p.reason, p.split) for p in prompts]
        with self._errors(), self._file:
            self._file.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?, ?)", rows)
            self._file.executemany("INSERT OR IGNORE INTO keys VALUES (?)", [(_number(key),) for key in keys])
            position = self.read(source) + len(prompts)
            self._file.execute("INSERT OR REPLACE INTO sources VALUES (?, ?)", (source, position))
        self.trainable += sum(prompt.split == "train" for prompt in prompts)

    def batches(self, size: int) -> Iterator[list[Prompt]]:
        """All prompts in the order in which they were written, `size` at a time."""
        with self._errors():
            rows = self._file.execute("SELECT * FROM prompts ORDER BY rowid")
            while batch := rows.fetchmany(size):
                yield [Prompt(*row) for row in batch]

    def close(self) -> None:
        """Leave the file as it is, to go on later."""
        self._file.close()

    def __exit__(self, *exception) -> None:
        self.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise InUse(f"{self.path}: another process collects prompts here: wait or stop it") from error
            if error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR")):  # a quota is the second to SQLite
                meaning = "the disk is full or cannot be written, and what was finished is kept: make room, run again"
                raise OSError(errno.ENOSPC, meaning, str(self.path)) from error
            raise OSError(f"{self.path}: {error}; what was finished is kept: mend that and run again") from error


def _number(key: str) -> int:
    """64 bits that stand for a key: among 100 million different ones, two are the same with a chance of 1 : 4,000."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), signed=True)
