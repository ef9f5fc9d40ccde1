"""A corpus of captions, read one by one: a file of any size takes the memory of one piece of it.

One for use without a network is `world.web_captions.WEB_CAPTIONS`, a stand-in for captions from the web.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

COLUMN = "caption"
SUFFIXES = (".txt", ".txt.gz", ".parquet")
LONGEST_LINE = 2**16  # bytes; what follows in the same line is left out, and no caption is that long
ROWS = 1024  # of a parquet file that are in memory at a time


class CorpusError(ValueError):
    """A corpus that cannot be read: the message names the file and what to do."""


def read_captions(path: str | Path) -> Iterator[str]:
    """The captions of a .txt or .txt.gz file (UTF-8, one a line) or of a .parquet file (its column `caption`).

    Empty ones are captions too: "". Raises CorpusError for a file that is not there, is of another kind, is broken, or
    has no such column.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise CorpusError(f"{path} {what}: give a file of captions ({', '.join(SUFFIXES)})")
    if not path.name.lower().endswith(SUFFIXES):
        raise CorpusError(f"{path} is no corpus: it must end in {', '.join(SUFFIXES)}")
    yield from _parquet(path) if path.suffix.lower() == ".parquet" else _lines(path)


def check_corpus(path: str | Path) -> str:
    """What tells a corpus from another: its name, size, and a checksum of its first and last mebibyte.

    Raises CorpusError where it has not one caption, and what `read_captions` raises.
    """
    if not any(caption.strip() for caption in read_captions(path)):
        raise CorpusError(f"{path} is empty: a corpus has one caption a line (or a row, in the column {COLUMN})")
    size = Path(path).stat().st_size
    ends = hashlib.sha256()
    with open(path, "rb") as file:
        for start in (0, max(0, size - 2**20)):
            file.seek(start)
            ends.update(file.read(2**20))
    return f"{Path(path).name}, {size} bytes, {ends.hexdigest()[:16]}"


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                rest = line
                while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(LONGEST_LINE)
                yield line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path} is broken ({error}): fetch or pack it again") from error


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if COLUMN not in schema.names:
                there = ", ".join(schema.names) or "none"
                raise CorpusError(f"{path} has no column {COLUMN!r} (its columns: {there}): rename the one to read")
            kind = schema.field(COLUMN).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise CorpusError(f"{path}: the column {COLUMN!r} holds {kind}, it must hold text")
            for rows in file.iter_batches(ROWS, columns=[COLUMN]):
                for caption in rows.column(0).to_pylist():
                    yield caption or ""
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{path} is not a whole parquet file ({error}): fetch or write it again") from error
