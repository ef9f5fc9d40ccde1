"""Fill a folder of shards with samples that are made batch by batch, on as many processes and machines as there are.

Notable: a batch depends on its indices alone, and one process writes the shards in order. So the bytes are the same
for any number of workers, and after any number of kills: what is finished is kept, what is missing is made.
"""

import itertools
import json
import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vfusion3d.data.shards import ShardWriter, shard_path, write_index, written_keys
from vfusion3d.runs.claim import SETTINGS, Kind, claim_folder, made_with, plain, write_whole
from vfusion3d.runs.lock import LOCK, hold, only_writer
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.quiet import quiet_libraries
from vfusion3d.runs.ranges import check_ranges
from vfusion3d.runs.reading import read_json

Members = dict[str, bytes] | str  # of a sample, or the reason why it has none
Make = Callable[[range], list[Members]]
SHARD = f"shard-{6 * '[0-9]'}"
FILES = ("index.json", f"{SHARD}.tar", f"{SHARD}.skipped.json")


def write_shards(
    folder: str | Path,
    make: Make,
    count: int,
    *,
    settings: Mapping[str, Any],
    keys: Sequence[str] | None = None,
    workers: int = 1,
    threads: bool = False,
    shard_size: int | Sequence[int] = 100,
    batch: int = 1,
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    unit: str = "sample",
    kind: str = "shards",
    facts: Callable[[Sequence[Path]], Mapping[str, Any]] | None = None,
) -> Path:
    """Write samples 0 to `count` - 1 as shards of `shard_size` samples (one number, or one for each) and an index.

    make(indices): for each of up to `batch` neighbours, its members (as `ShardWriter.write` takes them), or the reason
    why it has none. No batch crosses the border of a shard. settings: what the samples were made with (`claim_folder`),
    kept beside them. keys: of all samples, by default their numbers. workers: processes; they need `make` to be
    picklable. threads: workers are threads, for a `make` that works in processes of its own. part (k, n) writes every
    n-th shard only, beginning with the k-th: n machines share a folder. unit: what the bar counts. kind: what the
    folder is marked as, for people. facts(paths): what the index says beside the settings, from all shards; by default
    `skipped_samples`.

    Interrupted at any moment, the same call goes on where it stopped. Returns the path of `index.json`, which is
    written last. Raises ValueError where the folder already holds data of other settings (overwrite: they are
    deleted, but not by one part of several), for values out of range, and where `make` returns more or fewer samples
    than it was asked for; InUse where another process makes the same part.
    """
    whole = shard_size if isinstance(shard_size, int) else 1
    check_ranges(count=count, workers=workers)
    for name, value in {"shard_size": whole, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    which, parts = part
    if not 0 <= which < parts:
        raise ValueError(f"part must be (k, n) with 0 <= k < n, not {part}")
    sizes = [whole] * math.ceil(count / whole) if isinstance(shard_size, int) else shard_size
    borders = [0, *(min(end, count) for end in itertools.accumulate(sizes))]
    if borders[-1] != count:
        raise ValueError(f"the shards hold {borders[-1]} samples, not {count}")
    folder = Path(folder)
    with only_writer(folder, part):
        with hold(folder / f"{LOCK}-settings", wait=math.inf):  # parts that begin together claim it one by one
            if overwrite and parts > 1 and (folder / SETTINGS).exists() and not made_with(folder / SETTINGS, settings):
                raise ValueError(
                    f"{folder} was made with other settings, and who makes a part of it cannot overwrite it: delete it"
                )
            claim_folder(folder, settings, Kind(kind, FILES), overwrite=overwrite)

        ranges = [range(start, end) for start, end in itertools.pairwise(borders)]
        paths = [shard_path(folder, shard) for shard in range(len(ranges))]
        mine = dict(zip(paths[which::parts], ranges[which::parts], strict=True))
        missing = {path: indices for path, indices in mine.items() if not path.exists()}
        total = sum(map(len, mine.values()))
        with tqdm(total=total, unit=unit, desc=f"writing {folder.name}") as bar:
            bar.update(total - sum(map(len, missing.values())))
            _write(missing, make, "{:08d}".format if keys is None else keys.__getitem__, batch, (workers, threads), bar)
        if all(path.exists() for path in paths):
            return write_index(folder, settings=plain(settings), **(facts or skipped_samples)(paths))
        return folder / "index.json"  # the last part to finish writes it


def skipped_samples(paths: Sequence[Path]) -> dict[str, Any]:
    """What `make` left out of finished shards, as the index says it: the reasons by key, under "skipped"."""
    reasons: dict[str, str] = {}
    for path in paths:
        reasons |= _read_json(_skipped_path(path))
    return {"skipped": reasons}


def _write(
    missing: dict[Path, range],
    make: Make,
    key_of: Callable[[int], str],
    batch: int,
    workers: tuple[int, bool],
    bar: tqdm,
) -> None:
    done: dict[Path, set[str]] = {}
    todo: dict[Path, list[range]] = {}
    for path, indices in missing.items():
        done[path] = {*written_keys(path), *_read_json(_skipped_path(path))}
        batches = [indices[start : start + batch] for start in range(0, len(indices), batch)]
        todo[path] = [part for part in batches if not all(key_of(index) in done[path] for index in part)]
        bar.update(len(done[path]))
    bar.initial = bar.n  # so that the rate counts only what is made now
    results = _in_order(make, list(itertools.chain.from_iterable(todo.values())), *workers)
    try:
        for path, batches in todo.items():
            with ShardWriter(path) as writer:
                for index, members in itertools.islice(results, sum(map(len, batches))):
                    key = key_of(index)
                    if key in done[path]:
                        continue
                    if isinstance(members, str):
                        text = json.dumps({**_read_json(_skipped_path(path)), key: members}, indent=1)
                        write_whole(_skipped_path(path), partial(Path.write_text, data=text))
                    else:
                        writer.write(key, members)
                    bar.update()
    finally:
        results.close()


def _in_order(make: Make, batches: list[range], workers: int, threads: bool) -> Iterator[tuple[int, Members]]:
    """The samples with their indices, in order, made here (one worker) or in `workers` processes or threads."""
    if workers == 1:
        for part in batches:
            yield from _samples(make, part)
        return
    workers = min(workers, max(len(batches), 1))
    if threads:
        pool = ThreadPoolExecutor(workers)
    else:  # a fork would share the parent's OpenGL
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        waiting: deque[Future] = deque()
        for part in batches:
            with _without_interrupts():  # a new worker inherits that: only its parent is interrupted, and tells it
                waiting.append(pool.submit(_samples, make, part))
            if len(waiting) > 4 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died (out of memory?): run again to go on, perhaps with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=not threads, cancel_futures=True)  # who gave threads ends what they wait for


def _samples(make: Make, part: range) -> list[tuple[int, Members]]:
    return list(zip(part, make(part), strict=True))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C while the block runs; it comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    import threading

    torch.set_num_threads(1)
    quiet_libraries()
    parent = multiprocessing.parent_process()

    def leave_with_parent():  # a killed parent cannot tell its workers
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _skipped_path(path: Path) -> Path:
    return path.with_suffix(".skipped.json")


def _read_json(path: Path) -> dict[str, Any]:
    remedy = f"delete it and {path.name.split('.')[0]}.tar, and make them again"
    return read_json(path, dict[str, str], remedy) if path.exists() else {}
