"""What a folder of results was made with, kept beside them: the same settings go on, others never mix in.

Settings are a mapping, in which dataclasses (a recipe, the weights of its losses) bring the defaults of their fields.
Wherever settings are compared, what only one side knows has its default on the other, or is None there if it has none.
So the default of a new field must mean what was done before there was such a field: then what was made earlier stays
good, and any other value is a difference.

A folder of ours carries a mark among its settings: what kind of folder it is. Only names that this kind is known to
write are ever deleted.
"""

import dataclasses
import errno
import hashlib
import inspect
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NotRequired, TypedDict

from vfusion3d.runs.lock import open_locked, remove_leftovers
from vfusion3d.runs.reading import read_json

SETTINGS = "settings.json"
MARK = "vfusion3d"  # a key of a folder's settings: its kind, and the version of what this file knows of kinds
VERSION = 1
PARTIAL = re.compile(r"(\.old|\.[0-9a-f]{8})?\.partial(?=/|$)")  # ends what is not whole yet, a file or a folder
DEFAULTS = "(defaults)"  # a key of records: the defaults of what is in them, by dotted names

_Record = TypedDict("_Record", {DEFAULTS: NotRequired[dict[str, Any]]})


class Arguments(dict):
    """Settings that are arguments of `kind`, a function or a class: one that is missing has the default of that."""

    def __init__(self, kind: Callable, values: Mapping[str, Any]):
        super().__init__(values)
        self.kind = kind


@dataclass(frozen=True)
class Kind:
    """What a folder of ours holds. files: patterns (`fnmatch`) of paths in it, what is lost first where it is deleted.

    Beside them `settings.json`, and the names that they have until they are whole.
    """

    name: str
    files: tuple[str, ...]


def claim_folder(folder: str | Path, settings: Mapping[str, Any], kind: Kind, *, overwrite: bool = False) -> None:
    """Make the folder of results with these settings, or check that the one that is there has the same.

    settings: anything JSON can hold, and dataclasses. overwrite: where the folder has others, delete what is in it and
    begin a new one. Nobody else may write in it meanwhile (`lock.only_writer`). Raises ValueError that names what
    differs, and where the folder, or with `overwrite` a file in it, is none of ours: then nothing is written or
    deleted.
    """
    folder = Path(folder)
    path = folder / SETTINGS
    if not path.exists():
        begun = (file.name for file in folder.glob("*") if file.name[0] != ".")  # locks, and a file manager's
        if any(not PARTIAL.search(name) or _place(PurePath(name), (*kind.files, SETTINGS)) is None for name in begun):
            raise ValueError(f"{folder} holds files but no {SETTINGS}: give a folder that is empty or does not exist")
        write_record(path, settings, kind)
        return
    kept = _checked(path, settings, kind)
    changed = changes(kept, settings)
    if changed and not overwrite:
        raise ValueError(
            f"{folder} was made with other settings ({'; '.join(changed)}): "
            "use another folder, or overwrite this one (overwrite=True, --overwrite)"
        )
    if changed:
        _delete(folder, kind)
        write_record(path, settings, kind)


def made_with(path: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether there is a record at `path`, and it is of these settings. Raises ReadingError where it is no record."""
    return Path(path).exists() and not changes(read_record(path), settings)


def write_record(path: str | Path, settings: Mapping[str, Any], kind: Kind | None = None) -> None:
    """Write the record of settings that `made_with` reads, as JSON, with the mark of a folder of this kind."""
    mark = {} if kind is None else {MARK: {"kind": kind.name, "version": VERSION}}
    write_whole(path, lambda partial: partial.write_text(json.dumps(mark | record(settings), indent=1)))


def read_record(path: str | Path) -> dict[str, Any]:
    """What `write_record` wrote. Raises ReadingError where it is broken or something else."""
    return read_json(path, _Record, "put it back as it was, or use another folder")


def record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, with the defaults of what is in them, for `changes`."""
    defaults = dict(_defaults("", settings))
    return plain({**settings, DEFAULTS: defaults} if defaults else settings)


def plain(settings: Any) -> Any:
    """Settings as JSON holds them: dataclasses as mappings, tuples as lists."""
    return json.loads(json.dumps(settings, default=dataclasses.asdict))


def changes(kept: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What differs between a `record` and settings: "name: value there, value now" each."""
    old, new = {key: value for key, value in kept.items() if key != MARK}, record(settings)
    defaults = {**old.pop(DEFAULTS, {}), **new.pop(DEFAULTS, {})}
    return list(_changes("", old, new, defaults))


def short_name(content: str | bytes) -> str:
    """Sixteen hexadecimal digits that stand for a text, or for a file's bytes, where settings are kept."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def save_whole(save: Callable[[Path], Any], folder: str | Path) -> None:
    """`save(folder)`, such as a model's `save_pretrained`, under a temporary name that is renamed when complete.

    Only then does it take the place of a folder that is there, which is renamed first and deleted last. The next call
    puts that one back where a kill fell between the two renames (`put_back`). Raises OSError that names the folder
    where the disk is full.
    """
    folder = Path(folder)
    put_back(folder)
    partial, old = _partials(folder)
    try:
        with naming_a_full_disk(folder):
            save(partial)
            for file in partial.rglob("*"):
                _to_disk(file, partial.stat().st_mode)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: str | Path) -> None:
    """Undo what a kill left of a `save_whole` to this folder, which nobody else may be saving to."""
    folder = Path(folder)
    partial, old = _partials(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)


def write_whole(
    path: str | Path, write: Callable[[Path], Any], check: Callable[[Path], Any] = lambda partial: None
) -> Path:
    """`write(path)`, such as a table's `to_csv`, under a temporary name that is renamed when complete. Returns path.

    check(path): raises where what was written is not whole, for a writer that does not notice. Two processes may write
    the same file at once: the last to finish stays. What a killed process left under such a name is removed. Raises
    OSError that names the file where the disk is full; a file that was there before stays as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    while True:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        with naming_a_full_disk(path):
            if (lock := open_locked(partial, "xb")) is not None:  # it is not left over as long as this is open
                break
    try:
        with lock, naming_a_full_disk(path):
            write(partial)
            check(partial)
            _to_disk(partial, os.fstat(lock.fileno()).st_mode)  # which may be another file than `lock` by now
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


FULL = {  # every way in which libraries say that nothing more can be written, and what it means
    errno.ENOSPC: ("the disk is full", "No space left on device", "disk is full", "os error 28"),
    errno.EDQUOT: ("the disk quota is used up", "Disk quota exceeded", "os error 122"),
    errno.EFBIG: ("no file may be so large here", "File too large", "File size limit exceeded", "os error 27"),
}


@contextmanager
def naming_a_full_disk(path: Path, kept: str = "what was whole before is kept") -> Iterator[None]:
    """Turn every way in which libraries say that the disk is full into one OSError that says what to do."""
    try:
        yield
    except Exception as error:
        if (number := full_disk(error)) is None:
            raise
        raise OSError(number, f"{FULL[number][0]}, and {kept}: make room, run again", str(path)) from error


def full_disk(error: Exception) -> int | None:
    """The number (`errno`) of an error that says in whatever way that nothing more can be written, else None."""
    for number, texts in FULL.items():
        if getattr(error, "errno", None) == number or any(text in str(error) for text in texts):
            return number
    return None


def _to_disk(file: Path, mode: int) -> None:
    """See a file on the disk: some file systems say only here that it is full.

    mode: who may read it. safetensors puts a file in the place of the one it is given that only its owner may.
    """
    if file.is_file():
        file.chmod(mode & 0o666)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _partials(folder: Path) -> list[Path]:
    return [folder.with_name(f"{folder.name}{ending}") for ending in (".partial", ".old.partial")]


def _checked(path: Path, settings: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The record of a folder. Raises ValueError where the folder is none of ours, or of another kind.

    Before there was a mark, ours had most of its keys in common with what we write now.
    """
    kept = read_record(path)
    mark = kept.get(MARK)
    if mark is None:
        keys = kept.keys() - {DEFAULTS}
        ours = 2 * len(keys & settings.keys()) >= max(len(keys), len(settings))
        held = "something else"
    else:
        mark = mark if isinstance(mark, dict) else {}
        ours = mark == {"kind": kind.name, "version": VERSION}
        held = f"{mark.get('kind')}, version {mark.get('version')}"
    if not ours:
        raise ValueError(f"{path.parent} holds {held}, not {kind.name} (see {path}): give another folder")
    return kept


def _delete(folder: Path, kind: Kind) -> None:
    """Delete all that this kind writes, but the record. Raises ValueError, first of all, where there is more.

    Hidden files beside them, such as a file manager's, stay.
    """
    rooms = tuple({str(room) for pattern in kind.files for room in PurePosixPath(pattern).parents})
    files: dict[Path, int | None] = {}
    folders: list[Path] = []
    strangers: list[Path] = []
    for root, inner, names in os.walk(folder):
        root = Path(root)
        inner[:] = [name for name in inner if root != folder or name[0] != "."]
        links = [name for name in inner if (root / name).is_symlink()]
        for path in (root / name for name in (*names, *links) if root != folder or name[0] != "."):
            files[path] = _place(path.relative_to(folder), (*kind.files, SETTINGS))
        folders.append(root)
        if _place(root.relative_to(folder), rooms) is None:
            strangers.append(root)
    if strangers := [*strangers, *(path for path, place in files.items() if place is None)]:
        raise ValueError(
            f"{min(strangers)} is nothing that {kind.name} consist of, so nothing was deleted: "
            "move it away, or use another folder"
        )
    for path in sorted(files.keys() - {folder / SETTINGS}, key=files.__getitem__):
        path.unlink()
    for path in folders[:0:-1]:
        path.rmdir()


def _place(path: PurePath, patterns: tuple[str, ...]) -> int | None:
    """The place of the pattern that a path matches, under its own name or as what is not whole yet; None: of none."""
    for place, pattern in enumerate(patterns):
        for name in (path.as_posix(), PARTIAL.sub("", path.as_posix())):
            if fnmatchcase(name, pattern) and name.count("/") == pattern.count("/"):
                return place
    return None


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
