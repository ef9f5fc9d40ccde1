"""One writer at a time: locks of the operating system, which end with their process, however it ends.

Notable: a lock lies on an open file and not on a file's being there, so a kill leaves nothing behind that must be
cleared away. Over NFS they hold between machines where its server has locks, as it does unless it was mounted with
`nolock`. Where a file system has none at all (Lustre without `-o flock`), work goes on, and a second writer is not
noticed.
"""

import errno
import glob
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

LOCK = ".lock"
LEFTOVER = re.compile(r"\.[0-9a-f]{8}\.partial$")  # what `claim.write_whole` calls a file until it is whole
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
QUIET = 5.0  # seconds of waiting before a word is said of it
PAUSE = 0.05  # seconds between two looks at a lock


class InUse(OSError):
    """Another process writes here; the message says where, and which."""


@contextmanager
def only_writer(folder: str | Path, part: tuple[int, int] = (0, 1), *, wait: float = 0.0) -> Iterator[None]:
    """Make `folder` and be its only writer while the block runs, or the only one of part (k, n) of its work.

    Parts of the same work go on side by side, but not beside a writer of the whole folder. What killed processes left
    of files that were not whole is removed first. wait: seconds to wait for another writer. Raises InUse.
    """
    folder = Path(folder)
    which, parts = part
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold(folder / (LOCK if parts == 1 else f"{LOCK}-{which}-of-{parts}"), wait):
            for other in folder.glob(f"{LOCK}-*") if parts == 1 else folder.glob(LOCK):
                with hold(other, max(wait, 1.0)):  # another part may be looking, too
                    pass
            remove_leftovers(folder)
            yield
    finally:
        if new:
            with suppress(OSError):  # where nothing was written, nothing stays
                folder.rmdir()


@contextmanager
def hold(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file, which is there only meanwhile and says who holds it. Raises InUse after `wait` seconds."""
    begun, told = time.monotonic(), False
    while (file := _in_its_folder(path)) is None:
        holder = ""
        with suppress(OSError):
            holder = path.read_text(errors="replace")
        waited = time.monotonic() - begun
        where = f"{path.parent} is being written by {holder or 'another process'}"
        if waited >= wait + (0.0 if holder else 1.0):  # it may be about to say who it is, or have no room to
            raise InUse(f"{where}: wait for it or stop it, or use another folder")
        if waited > QUIET and not told:
            print(f"waiting, for {where}", file=sys.stderr)
            told = True
        time.sleep(PAUSE)
    with file:
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _in_its_folder(path: Path) -> BinaryIO | None:
    """The lock file open and locked; its folder may go with the writer that is waited for (`only_writer`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        return open_locked(path, "a+b")
    return None


def open_locked(path: Path, mode: str) -> BinaryIO | None:
    """Open a file (unbuffered) and lock it; None where another process has the lock, or removed the file meanwhile."""
    file = open(path, mode, buffering=0)  # noqa: SIM115
    try:
        if take(file) and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except FileNotFoundError:
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def take(file: BinaryIO, *, without_locks: bool = True) -> bool:
    """Whether the lock of an open file is ours now, until it is closed; `without_locks` where there are none."""
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return without_locks
        raise


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left of files (of one of this name) that were not whole; not what is being written.

    Only names as `claim.write_whole` gives them.
    """
    for path in folder.glob(f"{'*' if name is None else glob.escape(name)}.????????.partial"):
        if LEFTOVER.search(path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError), path.open("r+b") as file:
                if take(file, without_locks=False):
                    path.unlink()
