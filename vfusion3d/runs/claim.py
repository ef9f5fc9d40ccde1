"""What a folder of results was made with, kept beside them: the same settings go on, others never mix in.

Settings are a mapping, in which dataclasses (a recipe, the weights of its losses) bring the defaults of their fields.
Wherever settings are compared, what only one side knows has its default on the other, or is None there if it has none.
So the default of a new field must mean what was done before there was such a field: then what was made earlier stays
good, and any other value is a difference.
"""

import dataclasses
import errno
import hashlib
import inspect
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from vfusion3d.runs.reading import read_json

SETTINGS = "settings.json"
DEFAULTS = "(defaults)"  # a key of records: the defaults of what is in them, by dotted names

_Record = TypedDict("_Record", {DEFAULTS: NotRequired[dict[str, Any]]})


class Arguments(dict):
    """Settings that are arguments of `kind`, a function or a class: one that is missing has the default of that."""

    def __init__(self, kind: Callable, values: Mapping[str, Any]):
        super().__init__(values)
        self.kind = kind


def claim_folder(folder: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make the folder of results with these settings, or check that the one that is there has the same.

    settings: anything JSON can hold, and dataclasses. overwrite: where the folder has others, delete it and begin a new
    one. Raises ValueError that names what differs, and where the folder holds something else altogether.
    """
    path = Path(folder) / SETTINGS
    there = [file for file in path.parent.glob("*") if file.suffix != ".partial"]
    if there and not path.exists():
        raise ValueError(f"{path.parent} holds files but no {SETTINGS}: give a folder that is empty or does not exist")
    changed = changes(read_record(path), settings) if path.exists() else []
    if changed and not overwrite:
        raise ValueError(
            f"{path.parent} was made with other settings ({'; '.join(changed)}): "
            "use another folder, or overwrite this one (overwrite=True, --overwrite)"
        )
    if changed:
        shutil.rmtree(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_record(path, settings)


def made_with(path: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether there is a record at `path`, and it is of these settings."""
    return Path(path).exists() and not changes(read_record(path), settings)


def read_record(path: str | Path) -> dict[str, Any]:
    """What `write_record` wrote. Raises ReadingError where it is broken or something else."""
    return read_json(path, _Record, "put it back as it was, or use another folder")


def write_record(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write the record of settings that `made_with` reads, as JSON."""
    write_whole(path, lambda partial: partial.write_text(json.dumps(record(settings), indent=1)))


def record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, with the defaults of what is in them, for `changes`."""
    defaults = dict(_defaults("", settings))
    return plain({**settings, DEFAULTS: defaults} if defaults else settings)


def plain(settings: Any) -> Any:
    """Settings as JSON holds them: dataclasses as mappings, tuples as lists."""
    return json.loads(json.dumps(settings, default=dataclasses.asdict))


def changes(kept: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What differs between a `record` and settings: "name: value there, value now" each."""
    old, new = dict(kept), record(settings)
    defaults = {**old.pop(DEFAULTS, {}), **new.pop(DEFAULTS, {})}
    return list(_changes("", old, new, defaults))


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


def _changes(name: str, old: Any, new: Any, defaults: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{name}.{key}" if name else key
            missing = defaults.get(inner)
            yield from _changes(inner, old.get(key, missing), new.get(key, missing), defaults)
    elif old != new:
        yield f"{name}: {old} there, {new} now"


def _defaults(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The defaults of all fields and arguments in settings, by their dotted names."""
    if dataclasses.is_dataclass(value):
        value = Arguments(type(value), vars(value))
    elif isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        inner = f"{name}.{key}" if name else key
        if isinstance(value, Arguments) and (default := _default(value.kind, key)) is not None:
            yield inner, default
        yield from _defaults(inner, item)


def _default(kind: Callable, name: str) -> Any:
    """The default of a field or an argument, None where it has none."""
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if field.name == name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    parameter = inspect.signature(kind).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
