"""The one way to read files that a person, another program or a killed run may have spoiled: JSON, YAML and tables.

A reader gives values of the wanted kind or raises `ReadingError`, whose one line names the file, the key, and what to
do. A kind is a type as annotations have it: a dataclass (its fields and no other keys), a TypedDict (other keys are
let through), `list[int]`, `dict[str, float]`, `tuple[float, float]`, `X | None`, `Literal`. So a new file's reader is
a class that says what it holds.

Notable: `read_value` is no pydantic. To turn that library's list of errors into one line with the nearest known key,
and to allow lists for tuples and whole numbers for floats in its strict mode, takes as many lines.
"""

import csv
import difflib
import gzip
import io
import itertools
import json
import math
import re
import types
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import yaml

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

REMEDY = "put it back as it was, or delete it"
SUSPECT = re.compile(rb"NaN|Infinity|\d[eE]\+?\d{3}|\\u[dD]")  # what JSON may hold that is no number, or no text
_repr = Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother = 3, 60, 60


class ReadingError(ValueError):
    """A file that cannot be read; the message names, in one line, the file, the key and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))  # those of libraries have several


def read_json(path: str | Path, kind: Any = Any, remedy: str = REMEDY) -> Any:
    """What a file of JSON holds, as `kind` (`read_value`). remedy: what to do where it is broken.

    Raises ReadingError, and OSError where there is no such file.
    """
    return parse_json(regular_file(path).read_bytes(), path, kind, remedy)


def parse_json(data: bytes, name: str | Path, kind: Any = Any, remedy: str = REMEDY) -> Any:
    """What the bytes of `name` hold as JSON, as `kind`. Raises ReadingError, also for NaN and for equal keys."""
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_each_key_once)
        if SUSPECT.search(data):
            _check_values(value)
        return read_value(kind, value)
    except ReadingError as error:
        raise ReadingError(f"{name}: {error}: {remedy}") from error
    except RecursionError as error:
        raise ReadingError(f"{name} is no JSON of ours (nested too deep): {remedy}") from error
    except ValueError as error:  # among them UnicodeDecodeError, and a number of more than 4300 digits
        raise ReadingError(f"{name} is not whole JSON ({error}): {remedy}") from error


def read_yaml(path: str | Path, kind: Any = Any) -> Any:
    """What a YAML file holds, as `kind` (`read_value`). Numbers may be written as people write them, such as 4e-4.

    Raises ReadingError, also for NaN and for a key that stands twice; OSError where there is no such file.
    """
    data = regular_file(path).read_bytes()
    try:
        value = yaml.load(data.decode("utf-8-sig"), _EachKeyOnce)
        _check_values(value)
        return read_value(kind, value)
    except ReadingError as error:
        raise ReadingError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ReadingError(f"{path} is nested too deep for a file of settings") from error
    except Exception as error:  # YAML's own, and whatever its constructors meet in `!!int x` and the like
        raise ReadingError(f"{path} is not YAML: {error}") from error


def read_table(
    path: str | Path, columns: Mapping[str, type], remedy: str = REMEDY, *, where: tuple[str, str] | None = None
) -> "pd.DataFrame":
    """A CSV or Parquet file, with at least these columns: of `str`, `int` or `float` (where an empty cell is NaN).

    A CSV file whose name ends in .gz is packed. Other columns of a CSV file are what pandas takes them for, those of a
    Parquet file stay unread. where: read the rows of a Parquet file in which this column holds that text. Raises
    ReadingError that names file, line and column; OSError where there is no such file.
    """
    path = regular_file(path)
    try:
        table = _parquet(path, columns, where) if path.suffix == ".parquet" else _csv(path, columns)
        for column, kind in columns.items():
            if kind is not str:
                table[column] = _numbers(table[column], kind)
    except ReadingError as error:
        raise ReadingError(f"{path}: {error}: {remedy}") from error
    except (csv.Error, ValueError, OSError, EOFError, zlib.error) as error:  # pyarrow's and gzip's are of these
        raise ReadingError(f"{path} is not a whole table ({error}): {remedy}") from error
    return table.reset_index(drop=True)


def read_tensors(path: str | Path, remedy: str = REMEDY) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors of a safetensors file, on the CPU, and its metadata.

    Raises ReadingError for a file that is cut or of another kind, OSError where there is none.
    """
    from safetensors import SafetensorError, safe_open

    regular_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ReadingError(f"{path} is not whole safetensors ({error}): {remedy}") from error


def check_tensors(tensors: "Mapping[str, Tensor]", shapes: Mapping[str, tuple[int, ...]], name: Any) -> None:
    """Raise ReadingError that lists what is missing, too much, of another shape, no floating point, or not finite."""
    wrong = {
        "missing": [tensor for tensor in shapes if tensor not in tensors],
        "unknown": [tensor for tensor in tensors if tensor not in shapes],
        "of another shape": [
            f"{tensor} {list(tensors[tensor].shape)}, not {list(shape)}"
            for tensor, shape in shapes.items()
            if tensor in tensors and tuple(tensors[tensor].shape) != shape
        ],
    }
    if not any(wrong.values()):
        wrong["of whole numbers"] = [tensor for tensor, value in tensors.items() if not value.is_floating_point()]
        wrong["not finite"] = [tensor for tensor, value in tensors.items() if not value.isfinite().all()]
    said = [
        f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in wrong.items()
        if names
    ]
    if said:
        raise ReadingError(f"{name} does not fit the model that is wanted: {'; '.join(said)}")


def read_value(kind: Any, value: Any, key: str = "") -> Any:
    """What JSON or YAML holds as `kind`; `key` is where it stands, such as `training.stages[0]`.

    Raises ReadingError that names the key, with the nearest known one for one that is unknown.
    """
    name = key or "the file"
    if kind is Any:
        return value
    if is_dataclass(kind) or is_typeddict(kind):
        return _read_mapping(kind, value, key)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # only `X | None` occurs
        return None if value is None else read_value(parts[0], value, key)
    if origin is Literal:
        if value not in parts:
            raise ReadingError(f"{name} must be one of {', '.join(map(str, parts))}, not {shown(value)}")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise ReadingError(f"{name} must be a list, not {shown(value)}")
        kinds = itertools.repeat(parts[0])
        if origin is tuple and parts[-1] is not ...:
            kinds = parts
            if len(value) != len(parts):
                raise ReadingError(f"{name} must be a list of {len(parts)}, not {shown(value)}")
        return origin(read_value(part, item, f"{key}[{i}]") for i, (part, item) in enumerate(zip(kinds, value)))
    if origin is dict:
        if not isinstance(value, dict):
            raise ReadingError(f"{name} must be a mapping, not {shown(value)}")
        return {
            read_value(parts[0], k, f"a key of {name}"): read_value(parts[1], v, _inner(key, k))
            for k, v in value.items()
        }
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not kind:
        raise ReadingError(f"{name} must be of type {kind.__name__}, not {shown(value)}")
    if kind is float and not math.isfinite(value):
        raise ReadingError(f"{name} must be a finite number, not {value}")
    return value


def shown(value: Any) -> str:
    """A value as an error shows it: in eighty characters, however much it is."""
    try:
        text = _repr.repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def _read_mapping(kind: type, value: Any, key: str) -> Any:
    prefix = f"{key}." if key else ""
    hints = get_type_hints(kind)
    if not isinstance(value, dict):
        keys = ", ".join(sorted(kind.__required_keys__)) if is_typeddict(kind) else f"of {kind.__name__}"
        with_keys = f" with the keys {keys}" if keys else ""
        raise ReadingError(f"{key or 'the file'} must be a mapping{with_keys}, not {shown(value)}")
    if is_typeddict(kind):
        needed = kind.__required_keys__
    else:
        needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
        for name in value:
            if name not in hints:
                near = difflib.get_close_matches(str(name)[:99], hints, n=1, cutoff=0.0)
                raise ReadingError(f"unknown key {prefix}{_text(name)}; the nearest known one is {prefix}{near[0]}")
    if missing := [prefix + name for name in hints if name in needed and name not in value]:
        raise ReadingError(f"missing: {', '.join(missing)}")
    known = {name: read_value(hints[name], item, prefix + name) for name, item in value.items() if name in hints}
    if is_typeddict(kind):
        return {**value, **known}
    try:
        return kind(**known)
    except ValueError as error:
        raise ReadingError(f"{key}: {error}" if key else str(error)) from error


def _check_values(value: Any) -> None:
    """Raise ReadingError for a number that is not finite and for text that no file can hold, with the key."""
    met: set[int] = set()  # YAML's aliases may make a circle, or a billion of few

    def check(value: Any, key: str) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise ReadingError(f"{key or 'the file'} must be a finite number, not {value}")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ReadingError(f"{key or 'the file'} holds half a character: {value[:60]!a}") from None
        if isinstance(value, dict | list | tuple) and id(value) not in met:
            met.add(id(value))
            for inner, item in _items(value, key):
                check(item, inner)

    check(value, "")


def regular_file(path: str | Path) -> Path:
    """The path of a file that can be opened; the system's error names it. A pipe would be waited for."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ReadingError(f"{path} is no file but a pipe or a device")
    path.open("rb").close()
    return path


def _items(value: dict | list | tuple, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"a key of {key or 'the file'}", name
            yield _inner(key, name), item
    else:
        yield from ((f"{key}[{place}]", item) for place, item in enumerate(value))


def _inner(key: str, name: Any) -> str:
    return f"{key}.{_text(name)}" if key else _text(name)


def _text(name: Any) -> str:
    return name if isinstance(name, str) and len(name) < 60 else shown(name)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's own loader takes the last of equal keys, without a word."""
    known = dict(pairs)
    if len(known) < len(pairs):
        raise ReadingError(f"the key {_text(Counter(name for name, _ in pairs).most_common(1)[0][0])} stands twice")
    return known


class _EachKeyOnce(yaml.SafeLoader):
    """YAML's own loader takes the last of equal keys, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, times in names.items():
            if times > 1:
                where = f"in the mapping of line {node.start_mark.line + 1}"
                raise ReadingError(f"the key {_text(name)} stands twice {where}")
        return super().construct_mapping(node, deep)


_EachKeyOnce.add_implicit_resolver(  # YAML 1.1 reads 4e-4 as text: it wants 4.0e-4
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _csv(path: Path, columns: Mapping[str, type]) -> "pd.DataFrame":
    import pandas as pd

    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = [(reader.line_num, row) for row in reader if row]
    if not rows:
        raise ReadingError("the file is empty")
    (_, names), *rows = rows
    _check_columns(names, columns)
    for line, row in rows:
        if len(row) != len(names):
            raise ReadingError(f"line {line} has {len(row)} cells, not {len(names)}")
    table = pd.DataFrame([row for _, row in rows], [line for line, _ in rows], names, dtype=str)
    others = pd.read_csv(io.StringIO(text), usecols=[name for name in names if name not in columns])
    table[list(others)] = others.set_axis(table.index)
    return table


def _parquet(path: Path, columns: Mapping[str, type], where: tuple[str, str] | None) -> "pd.DataFrame":
    from pyarrow import parquet, types

    schema = parquet.read_schema(path)
    wanted = {**columns, where[0]: str} if where else columns
    _check_columns(schema.names, wanted)
    for column, kind in wanted.items():
        there = schema.field(column).type
        if kind is str and not (types.is_string(there) or types.is_large_string(there)):
            raise ReadingError(f"the column {column!r} holds {there}, it must hold text")
    filters = [(where[0], "=", where[1])] if where else None
    return parquet.read_table(path, columns=list(columns), filters=filters).to_pandas()


def _check_columns(names: Sequence[str], columns: Mapping[str, type]) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ReadingError(f"the column {_text(twice[0])} stands twice")
    if missing := [column for column in columns if column not in names]:
        raise ReadingError(f"no column {missing[0]!r} among {', '.join(map(_text, names))}")


def _numbers(cells: "pd.Series", kind: type) -> "pd.Series":
    """A column as numbers. Raises ReadingError that names line and cell."""
    known = {}
    for line, cell in cells.items():
        try:
            known[line] = float("nan" if cell == "" else cell)
            if kind is int and not (known[line].is_integer() and abs(known[line]) < 2**53):
                raise ValueError
        except (TypeError, ValueError):
            what = "whole number" if kind is int else "number"
            raise ReadingError(f"line {line}, column {cells.name!r}: {shown(cell)} is no {what}") from None
    return cells.index.map(known).astype(kind).to_series(cells.index)
