"""What a folder of results was made with, kept beside them: the same settings go on, others never mix in."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"


def claim_folder(folder: str | Path, settings: dict[str, Any], *, overwrite: bool = False) -> None:
    """Make the folder of results with these settings, or check that the one that is there has the same.

    settings: anything JSON can hold. overwrite: where it has others, delete the folder and begin a new one.
    A setting that only one of them has does not count: versions may know more or fewer. Raises ValueError that names
    what differs, and where the folder holds something else altogether.
    """
    path, settings = Path(folder) / SETTINGS, json.loads(json.dumps(settings))
    there = [file for file in path.parent.glob("*") if file.suffix != ".partial"]
    if there and not path.exists():
        raise ValueError(f"{path.parent} holds files but no {SETTINGS}: give a folder that is empty or does not exist")
    old = json.loads(path.read_text()) if path.exists() else settings
    changed = list(_differences("", old, settings))
    if changed and not overwrite:
        raise ValueError(
            f"{path.parent} was made with other settings ({'; '.join(changed)}): "
            "use another folder, or overwrite this one (overwrite=True, --overwrite)"
        )
    if changed:
        shutil.rmtree(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_whole(path, lambda partial: partial.write_text(json.dumps(settings, indent=1)))


def short_name(content: str | bytes) -> str:
    """Sixteen hexadecimal digits that stand for a text, or for a file's bytes, where settings are kept."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def save_whole(save: Callable[[Path], Any], folder: str | Path) -> None:
    """`save(folder)`, such as a model's `save_pretrained`, under a temporary name that is renamed when complete.

    Only then does it take the place of a folder that is there, which is renamed first and deleted last. The next call
    puts that one back where a kill fell between the two renames. Raises OSError that names the folder where the disk is
    full.
    """
    folder = Path(folder)
    partial, old = (folder.with_name(f"{folder.name}{ending}") for ending in (".partial", ".old.partial"))
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with _naming_a_full_disk(folder):
            save(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_whole(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """`write(path)`, such as a table's `to_csv`, under a temporary name that is renamed when complete. Returns path.

    Two processes may write the same file at once: the last to finish stays. Raises OSError that names the file where
    the disk is full; a file that was there before stays as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with _naming_a_full_disk(path):
            write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@contextmanager
def _naming_a_full_disk(path: Path) -> Iterator[None]:
    """Turn every way in which libraries say that the disk is full into one OSError that says what to do."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)  # safetensors has its own
        if not full:
            raise
        message = "the disk is full, and what was whole before is kept: make room, run again"
        raise OSError(errno.ENOSPC, message, str(path)) from error


def _differences(name: str, old: Any, new: Any):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() & new.keys()):
            yield from _differences(f"{name}.{key}" if name else key, old[key], new[key])
    elif old != new:
        yield f"{name}: {old} there, {new} now"
