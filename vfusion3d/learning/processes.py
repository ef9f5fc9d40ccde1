"""The processes that torchrun starts for one command (else there is one): which is which, who waits for whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from accelerate import PartialState

PATIENCE = timedelta(days=7)  # that processes wait for one another: one may have hours of work for all


def several_processes(device: str | None = None) -> PartialState:
    """Join the other processes, each with a GPU of its own unless `device` is "cpu"; before anything is loaded."""
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def part_of_process() -> tuple[int, int]:
    """The part (k, n) of work in shards that falls to this process."""
    state = PartialState()
    return state.process_index, state.num_processes


def wait_for_all() -> None:
    """Wait until every process is here."""
    PartialState().wait_for_everyone()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block alone; then the others do, and find what it made."""
    with PartialState().main_process_first():
        yield
