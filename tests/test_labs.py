"""The labs: their solutions do what they claim, typical mistakes are caught with a hint, and marking works."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from vfusion3d.evaluation.tables import write_scores
from vfusion3d.experiments.run import SCORES
from vfusion3d.runs import layout

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "labs" / "source").glob("*/*.ipynb"))
MISTAKES = {  # of each exercise one that students make: what is replaced, and by what
    "orbit": ("torch.arange(views) * (2 * math.pi / views)", "torch.linspace(0, 2 * math.pi, views)"),
    "look": ("torch.linalg.cross(backward, right)", "torch.linalg.cross(right, backward)"),
    "project": ("depth = -local[:, 2]", "depth = -local[:, 2].mean()"),
    "noise": ("cam2world.clone()", "cam2world"),
    "category": ("1.0 * p.height", "1.0"),
    "features": ("place * len(video) // count", "place"),
    "filter": (
        'cross_val_predict(model, features, good, cv=divided, method="decision_function")',
        "model.fit(features, good).decision_function(features)",
    ),
    "march": ("(t[:, 1:] - t[:, :-1])", "(t[0, 1] - t[0, 0])"),
    "importance": ("weights / weights.sum(-1, keepdim=True)", "weights"),
    "opacity": (".mean()", ".sum()"),
    "paired": ("(table[better] - table[other]).dropna()", "table[better].fillna(0) - table[other].fillna(0)"),
    "double": ("(common[1] ** 2 + uncommon[1] ** 2) ** 0.5", "common[1] + uncommon[1]"),
    "power": ("> 2 * error", "> error"),
    "loss": ("(3 * weight.sum())", "(3 * len(weight))"),
}


@pytest.fixture(scope="module")
def labs():
    spec = importlib.util.spec_from_file_location("labs", ROOT / "labs" / "labs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(source: Path) -> list:
    return [cell for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]


def exercise(cell) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "").removeprefix("test_")


def is_test(cell) -> bool:
    return cell.metadata.get("nbgrader", {}).get("grade", False)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_solution_passes_its_tests_and_every_cell_runs(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    known = {}
    for cell in cells(source):
        exec(cell.source.replace("count = 24", "count = 6"), known)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_typical_mistake_gets_a_hint(name, monkeypatch):
    source = next(path for path in SOURCES if name in map(exercise, cells(path)))
    monkeypatch.chdir(source.parent)
    right, wrong = MISTAKES[name]
    known = {}
    for cell in cells(source):
        if is_test(cell) and exercise(cell) == name:
            with pytest.raises(AssertionError) as raised:
                exec(cell.source, known)
            assert len(str(raised.value).split()) >= 4
            return
        if exercise(cell) or cell.source.startswith(("import", "from")):
            assert exercise(cell) != name or cell.source.count(right) == 1
            exec(cell.source.replace(right, wrong) if exercise(cell) == name else cell.source, known)


def test_there_are_at_least_twelve_exercises_of_which_each_says_its_minutes_and_has_a_mistake():
    found = [exercise(cell) for source in SOURCES for cell in cells(source) if is_test(cell)]
    assert len(found) >= 12
    assert sorted(found) == sorted(MISTAKES)
    for source in SOURCES:
        text = "\n".join(cell.source for cell in nbformat.read(source, 4).cells if cell.cell_type == "markdown")
        told = re.findall(r"^## \d\. .*\((\d+) minutes, (\d+) points\)$", text, re.MULTILINE)
        points = [cell.metadata["nbgrader"]["points"] for cell in cells(source) if is_test(cell)]
        assert [int(number) for _, number in told] == points
        assert sum(int(minutes) for minutes, _ in told) <= 90


def small_course(root: Path) -> None:
    """A folder with the real first exercise as its only lab."""
    notebook = nbformat.read(SOURCES[0], 4)
    kept = [cell for cell in notebook.cells if exercise(cell) in ("", "orbit") and cell.cell_type == "code"][:3]
    kept[0].source = "import math\n\nimport torch\n\nfrom vfusion3d import cameras"
    notebook.cells = kept
    (root / "source" / "lab1").mkdir(parents=True)
    nbformat.write(notebook, root / "source" / "lab1" / "lab1.ipynb")


def test_marks_hints_and_feedback_come_of_what_students_hand_in(labs, tmp_path):
    course, handed_in = tmp_path / "labs", tmp_path / "handed in"
    small_course(course)
    labs.make(course)
    student = (course / "student" / "lab1" / "lab1.ipynb").read_text()
    assert "linspace" not in student
    assert "arange" not in student
    assert "BEGIN" not in student
    assert "orbit_cameras(16" not in student  # a hidden test
    assert "Hint" in student
    answers = {name: course / folder / "lab1" / "lab1.ipynb" for name, folder in (("a", "solutions"), ("b", "student"))}
    for name, path in answers.items():
        (handed_in / name).mkdir(parents=True)
        text = path.read_text()
        if name == "b":
            text = text.replace('raise NotImplementedError(\\"write this\\")', "return torch.ones(views, 3)")
        (handed_in / name / "lab1.ipynb").write_text(text)
    marks = labs.grade(course, handed_in)
    assert marks.set_index("student")["points"].to_dict() == {"a": 2.0, "b": 0.0}
    assert pd.read_csv(course / "marks.csv").equals(marks)
    assert "the first camera stands at azimuth 0" in (course / "feedback" / "b" / "lab1" / "lab1.html").read_text()
    with pytest.raises(FileNotFoundError, match="STUDENT"):
        labs.grade(course, tmp_path / "nobody")


def test_lab_data_are_the_rows_of_table_6_where_a_run_has_them(labs, tmp_path):
    for number, variant in enumerate(("only_3d_as_synthetic", "synthetic")):
        folder = layout.experiment(tmp_path / "run", variant, 0)
        rows = {"test": ["3d", "3d", "text"], "key": ["x", "y", "z"], "category": ["car", "robot", ""]}
        rows |= {name: [number, 1.0, 2.0] for name in ("psnr", "ssim", "lpips")}
        write_scores(pd.DataFrame(rows), folder / SCORES)
    scores = pd.read_csv(labs.data(tmp_path, tmp_path / "run"))
    assert scores.groupby("method")["psnr"].first().to_dict() == {"3D data": 0, "synthetic data": 1}
    assert sorted(scores["key"]) == ["x", "x", "y", "y"]
    assert scores.set_index("category")["common"].to_dict()["car"]


def test_without_a_run_lab_data_compare_the_bundled_models_on_objects_that_they_never_saw(labs, tmp_path):
    scores = pd.read_csv(labs.data(tmp_path, tmp_path / "no run", objects=2))
    assert sorted(scores.groupby("method").size().items()) == [("base", 2), ("mini", 2)]
    assert scores.groupby("method")["psnr"].mean()["mini"] > 10
