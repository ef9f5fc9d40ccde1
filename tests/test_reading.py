"""Reading what may be broken: a value, or one line that names the file and the key."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas as pd
import pytest

from vfusion3d.runs.reading import ReadingError, read_json, read_table, read_value, read_yaml


class Entry(TypedDict):
    name: str
    place: tuple[int, int]
    score: NotRequired[float | None]


@dataclass(frozen=True)
class File:
    entries: list[Entry]
    shares: dict[str, float]


GOOD = {"entries": [{"name": "a", "place": [1, 2], "score": 1, "more": 3}], "shares": {"x": 0.5}}


def test_a_file_of_the_wanted_kind_is_read(tmp_path):
    (tmp_path / "file.json").write_text("\ufeff" + json.dumps(GOOD), encoding="utf-8")
    read = read_json(tmp_path / "file.json", File)
    assert read == File([{"name": "a", "place": (1, 2), "score": 1.0, "more": 3}], {"x": 0.5})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"entries": [', r"not whole JSON"),
        (b"", r"not whole JSON"),
        (b"\xff\xfe{}", r"not whole JSON"),
        (b'{"a\x00": 1}', r"not whole JSON"),
        (b"[" * 100_000, r"nested too deep"),
        (b'{"a": ' * 100_000, r"nested too deep"),
        (b"1" * 5000, r"not whole JSON"),
        (b"[]", r"must be a mapping with the keys of File"),
        (b"null", r"must be a mapping"),
        (b'{"entries": [], "entries": []}', r"the key entries stands twice"),
        (b'{"entries": []}', r"missing: shares"),
        (b'{"entries": [], "shares": {}, "shared": 1}', r"unknown key shared; the nearest known one is shares"),
        (b'{"entries": {}, "shares": {}}', r"entries must be a list"),
        (
            b'{"entries": [{"name": 1, "place": [1, 2]}], "shares": {}}',
            r"entries\[0\]\.name must be of type str, not 1",
        ),
        (b'{"entries": [{"name": "a", "place": [1]}], "shares": {}}', r"entries\[0\]\.place must be a list of 2"),
        (b'{"entries": [{"name": "a", "place": [1, "2"]}], "shares": {}}', r"entries\[0\]\.place\[1\] must be of type"),
        (b'{"entries": [], "shares": {"x": NaN}}', r"shares\.x must be a finite number"),
        (b'{"entries": [], "shares": {"x": -1e999}}', r"shares\.x must be a finite number"),
        (b'{"entries": [], "shares": {"x": 1' + b"0" * 400 + b"}}", r"shares\.x must be a finite number"),
        (b'{"entries": [], "shares": {"\\ud800": 1}}', r"holds half a character"),
    ],
)
def test_what_is_wrong_with_json_is_one_line_with_file_key_and_remedy(tmp_path, content, message):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ReadingError, match=r"file\.json.*" + message + r".*: render it again$") as error:
        read_json(tmp_path / "file.json", File, "render it again")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: {b: .nan}", r"a\.b must be a finite number"),
        ("a: [1, .inf]", r"a\[1\] must be a finite number"),
        ("a: {b: 1, b: 2}", r"the key b stands twice in the mapping of line 1"),
        ("[" * 5000, "nested too deep"),
        ("a: !!int x", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!python/object:os.system x", "not YAML"),
        ("a: 2020-13-45", "not YAML"),
        ("? [a]\n: 1", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_is_wrong_with_yaml_names_file_and_key(tmp_path, content, message):
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(ReadingError, match=r"file\.yaml.*" + message):
        read_yaml(tmp_path / "file.yaml")


def test_a_billion_laughs_are_refused_in_one_short_line(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    (tmp_path / "file.yaml").write_text("\n".join(lines))
    with pytest.raises(ReadingError, match=r"file\.yaml: a0 must be of type str") as error:
        read_yaml(tmp_path / "file.yaml", dict[str, str])
    assert len(str(error.value)) < 400


def test_a_number_of_yaml_is_one_however_people_write_it(tmp_path):
    (tmp_path / "file.yaml").write_text("[4e-4, 4.0e-4, 1E3, -2e+2, 1_e3]")
    assert read_yaml(tmp_path / "file.yaml") == [4e-4, 4e-4, 1000.0, -200.0, "1_e3"]


def test_a_table_has_its_columns_as_the_wanted_types(tmp_path):
    (tmp_path / "t.csv").write_text('key,step,loss,other\n007,1,0.1,x\n"a,\nb",2,,3\n')
    table = read_table(tmp_path / "t.csv", {"key": str, "step": int, "loss": float})
    assert list(table.key) == ["007", "a,\nb"]
    assert list(table.step) == [1, 2]
    assert table.loss[0] == 0.1
    assert pd.isna(table.loss[1])
    assert list(table.other) == ["x", "3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff", "not a whole table"),
        (b"step,loss\n1,\x002\n", "not a whole table|no number"),
        (b"loss\n1\n", "no column 'step' among loss"),
        (b"step,step,loss\n", "the column step stands twice"),
        (b"step,loss\n1,2,3\n", "line 2 has 3 cells, not 2"),
        (b"step,loss\n1\n", "line 2 has 1 cells, not 2"),
        (b"step,loss\n1,2\nx,3\n", "line 3, column 'step': 'x' is no whole number"),
        (b"step,loss\n1.5,2\n", "line 2, column 'step': '1.5' is no whole number"),
        (b"step,loss\n1e400,2\n", "is no whole number"),
        (b"step,loss\n,2\n", "is no whole number"),
        (b'step,loss\n1,"2', "not a whole table"),
    ],
)
def test_what_is_wrong_with_a_table_names_file_line_and_column(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ReadingError, match=rf"t\.csv.*({message})"):
        read_table(tmp_path / "t.csv", {"step": int, "loss": float})


def test_a_parquet_file_is_read_and_checked_as_csv_is(tmp_path):
    pd.DataFrame({"caption": ["a", None], "n": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet", {"n": int}).n) == [1, 2]
    with pytest.raises(ReadingError, match=r"t\.parquet.*no column 'split'"):
        read_table(tmp_path / "t.parquet", {"split": str})
    with pytest.raises(ReadingError, match=r"t\.parquet.*'n' holds int64"):
        read_table(tmp_path / "t.parquet", {"n": str})
    (tmp_path / "t.parquet").write_bytes(b"PAR1" * 9)
    with pytest.raises(ReadingError, match=r"t\.parquet is not a whole table"):
        read_table(tmp_path / "t.parquet", {"n": int})


def test_an_error_shows_no_more_of_a_value_than_fits_into_a_line():
    wide = {f"{number}" * 9: {f"{inner}" * 9: list(range(9)) for inner in range(9)} for number in range(9)}
    with pytest.raises(ReadingError, match=r"must be a list, not \{.*\.\.\.$") as error:
        read_value(list[int], wide)
    assert len(str(error.value)) < 120


def test_any_kind_lets_everything_through():
    assert read_value(Any, [object]) == [object]


READS_BY_ITSELF = {
    "runs/reading.py": "it is the one way",
    "runs/claim.py": "`plain` turns settings into what JSON would hold; it reads no file",
    "data/blender_worker.py": "runs in Blender's Python, without this package; it reads what we just wrote",
    "study/page.py": "what a browser sent, not a file",
    "app/server.py": "what a browser sent, not a file",
    "curation/judgements.py": "names file and line itself, and keeps comments of people",
    "study/answers.py": "names file and line itself",
    "video/corpus.py": "a corpus of any size is read bit by bit; it names the file itself",
    "video/prompts.py": "writes a table bit by bit",
    "curation/curate.py": "turns the JSON that skops just wrote into other bytes; it reads no file",
}
READERS = (
    r"json\.loads?\(|yaml\.\w*load|read_csv\(|read_parquet\(|parquet\.\w+\(|csv\.\w*[rR]eader\(|loadtxt\(|load_file\("
)


def test_no_other_file_of_the_package_reads_json_yaml_tables_or_tensors_by_itself():
    package = Path(__file__).resolve().parents[1] / "vfusion3d"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(READERS, path.read_text(encoding="utf-8"))
    }
    assert found - READS_BY_ITSELF.keys() == set()
    assert "runs/reading.py" in found
