"""The processes that torchrun starts for one command (else there is one): which is which, who waits for whom."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from accelerate import PartialState

PATIENCE = timedelta(days=7)  # that processes wait for one another: one may have hours of work for all


def several_processes(device: str | None = None) -> PartialState:
    """Join the other processes, each with a GPU of its own unless `device` is "cpu"; before anything is loaded.

    The first call decides: nothing else in the package may join, or processes would wait for ten minutes only.
    """
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def part_of_process() -> tuple[int, int]:
    """The part (k, n) of work in shards that falls to this process."""
    state = several_processes()
    return state.process_index, state.num_processes


def wait_for_all() -> None:
    """Wait until every process is here."""
    several_processes().wait_for_everyone()


def in_parts(make: Callable[[tuple[int, int]], Any]) -> None:
    """`make(part)` in every process, and once more as a whole in the main one, which finds what is there already.

    For who was last in its part need not have seen the last of the others on a network's disk.
    """
    which, parts = part_of_process()
    make((which, parts))
    wait_for_all()
    if parts > 1 and which == 0:
        make((0, 1))
    wait_for_all()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block alone; then the others do, and find what it made."""
    with several_processes().main_process_first():
        yield
