"""One writer a folder: who comes second hears of it at once, and a kill leaves nothing locked."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from vfusion3d.runs.lock import InUse, only_writer, remove_leftovers


def in_a_child(work) -> int:
    """Fork, and wait until `work` has begun; returns the process, which then sleeps inside of it."""
    ready, begun = os.pipe()
    if (process := os.fork()) == 0:
        try:
            signal.alarm(60)
            with work():
                os.write(begun, b".")
                signal.pause()
        finally:
            os._exit(1)
    os.close(begun)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    return process


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_second_writer_hears_who_is_the_first_and_a_kill_frees_the_folder(tmp_path):
    folder = tmp_path / "run"
    first = in_a_child(lambda: only_writer(folder))
    try:
        said = rf"run is being written by process {first} on {socket.gethostname()}: wait for it or stop it"
        with pytest.raises(InUse, match=said), only_writer(folder):
            pass
    finally:
        kill(first)
    with only_writer(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_parts_work_side_by_side_each_part_once_and_not_beside_a_writer_of_everything(tmp_path):
    first = in_a_child(lambda: only_writer(tmp_path, (0, 3)))
    try:
        with only_writer(tmp_path, (1, 3)), only_writer(tmp_path, (2, 3)):
            pass
        for part in ((0, 3), (0, 1)):
            with pytest.raises(InUse, match=str(first)), only_writer(tmp_path, part):
                pass
    finally:
        kill(first)
    with only_writer(tmp_path), pytest.raises(InUse), only_writer(tmp_path, (1, 3)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_holds_where_there_was_no_room_to_say_whose_it_is(tmp_path):
    first = in_a_child(lambda: only_writer(tmp_path))
    os.truncate(tmp_path / ".lock", 0)
    try:
        with pytest.raises(InUse, match="another process"), only_writer(tmp_path):
            pass
    finally:
        kill(first)


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "new"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_only_our_leftovers_that_nobody_is_writing_are_removed(tmp_path):
    for name in ("a.glb.0123abcd.partial", "b.glb.0123abcd.partial", "film.partial", "notes.final_v2.partial"):
        (tmp_path / name).touch()
    with open(tmp_path / "b.glb.0123abcd.partial", "r+b") as file:
        from filelock import lock_descriptor

        assert lock_descriptor(file.fileno(), blocking=False)
        remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "b.glb.0123abcd.partial",
        "film.partial",
        "notes.final_v2.partial",
    ]


def test_who_waits_for_a_folder_that_goes_with_its_first_writer_gets_it_all_the_same(tmp_path):
    folder = tmp_path / "run"
    with ThreadPoolExecutor() as pool, ExitStack() as first:
        first.enter_context(only_writer(folder))

        def second() -> bool:
            with only_writer(folder, wait=30):
                return folder.is_dir()

        waiting = pool.submit(second)
        time.sleep(0.3)
        first.close()  # which leaves no folder
        assert waiting.result()
