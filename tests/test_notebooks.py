"""The notebooks run from a clean start at the smoke profile, and the workflow runs what is out of date and no more.

Everything is written to a temporary folder: the committed copies in papermill_runs/ and figures/ stay as they are.
"""

import ast
import base64
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from PIL import Image
from run_facts import done, known_shares

import vfusion3d
from vfusion3d import book
from vfusion3d.book.notebook import Notebook
from vfusion3d.book.plan import steps
from vfusion3d.book.run import NotebookError, main, run_notebook, scrub
from vfusion3d.runs.layout import MissingArtifact
from vfusion3d.runs.profiles import load_profile

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "papermill_runs").glob("*/*.ipynb"))
WORKFLOW = yaml.safe_load((ROOT / "workflow" / "notebooks.yaml").read_text())
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def snakemake(snakefile: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command of `make reproduce` at the smoke profile, with its results in `directory`.

    At this scale a job fills no more than a core, so as many run side by side as there are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--directory", directory]
    command += [
        "--cores",
        "all",
        "--max-threads",
        "1",
        "--scheduler",
        "greedy",
        "--nolock",
        "--rerun-incomplete",
        *arguments,
    ]
    command += ["--config", "profile=smoke"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def code_cells(source: Path) -> list:
    return [cell for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]


# The notebooks of the project


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory) -> tuple[Path, str]:
    """Every notebook at the smoke profile, run once for all tests: the folder of the results, and the log."""
    directory = tmp_path_factory.mktemp("smoke")
    done = snakemake(ROOT / "workflow" / "Snakefile", directory, "--keep-going", "--quiet", "host")
    return directory, done.stdout + done.stderr


@each_notebook
def test_the_notebook_runs_at_the_smoke_profile(source, smoke_run):
    directory, log = smoke_run
    executed = directory / "papermill_runs" / "smoke" / source.name
    assert executed.is_file(), log[-8000:]
    cells = code_cells(executed)
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert str(ROOT) not in executed.read_text()


@each_notebook
def test_the_plan_of_smoke_says_what_the_run_did(source, smoke_run):
    directory, _ = smoke_run
    shares = known_shares(directory / "runs" / "smoke")  # what the filters would keep, nobody knows beforehand
    planned = {step.what: step.count for step in steps(source.stem, load_profile("smoke"), shares)}
    assert planned == done(source.stem, directory)


@each_notebook
def test_the_source_carries_no_outputs(source):
    assert not [cell for cell in code_cells(source) if cell.outputs or cell.execution_count]


@pytest.mark.parametrize("executed", EXECUTED, ids=lambda executed: f"{executed.parent.name}-{executed.stem}")
def test_a_committed_copy_says_what_its_source_says(executed):
    source, copy = (
        [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        for path in (ROOT / "notebooks" / executed.name, executed)
    )
    assert [text.replace("](../../notebooks/solutions.md)", "](solutions.md)") for text in copy] == source


@each_notebook
def test_the_source_begins_with_its_parameters(source):
    first = code_cells(source)[0]
    assert "parameters" in first.metadata.get("tags", [])
    named = {
        target.id for node in ast.parse(first.source).body if isinstance(node, ast.Assign) for target in node.targets
    }
    assert {"profile", "run_dir", "seed"} <= named


@each_notebook
def test_no_cell_is_longer_than_15_lines(source):
    assert max(len(cell.source.splitlines()) for cell in code_cells(source)) <= 15


def imported(code: str) -> dict[str, Any]:
    """What some code imports from the package: the thing itself by the name that the code gives it."""
    found = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vfusion3d":
            for alias in node.names:
                thing = getattr(importlib.import_module(node.module), alias.name, None)
                found[alias.asname or alias.name] = thing or importlib.import_module(f"{node.module}.{alias.name}")
    return found


def code_of(source: Path) -> str:
    return "\n".join(cell.source for cell in code_cells(source) if not cell.source.startswith("%"))


@each_notebook
def test_a_reader_meets_few_of_our_names(source):
    assert len(imported(code_of(source))) <= 16


@each_notebook
def test_the_workflow_knows_what_the_notebook_imports(source):
    """A change of any part of the package that a notebook calls must make its results out of date."""
    modules = set(re.findall(r"^from (vfusion3d\.\S+) import", code_of(source), re.MULTILINE))
    for thing in imported(code_of(source)).values():
        modules.add(getattr(thing, "__module__", "") or getattr(thing, "__name__", ""))
    parts = {module.split(".")[1] for module in modules if module.startswith("vfusion3d.")}
    used = {Path(part).parts[0].removesuffix(".py") for part in WORKFLOW[source.stem]["uses"]}
    assert parts - {"runs"} <= used  # that room says what is run, and where; it changes no result


def test_the_workflow_lists_the_notebooks_that_there_are_in_their_order():
    assert list(WORKFLOW) == [source.stem for source in SOURCES]
    for place, entry in enumerate(WORKFLOW.values()):
        assert set(entry["needs"]) <= set(list(WORKFLOW)[:place])
        assert all((ROOT / "vfusion3d" / part).exists() for part in entry["uses"])


def solutions() -> dict[str, str]:
    """The code of solutions.md for each notebook that has some, by the number in the notebook's name."""
    parts = re.split(r"^## (\w+) .*$", (ROOT / "notebooks" / "solutions.md").read_text(), flags=re.MULTILINE)
    blocks = {
        name: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {name: "\n".join(found) for name, found in blocks.items() if found}


@pytest.mark.parametrize("number", solutions())
def test_the_solutions_use_only_names_that_exist(number, tmp_path):
    """What they import exists, and after the cells of their notebook every name is defined (they are not run)."""
    (source,) = (source for source in SOURCES if source.stem.startswith(f"{number}_"))
    text = "\n".join(["from IPython.display import display", code_of(source), solutions()[number]])
    known = imported(text) | {"run": Notebook}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            thing = known[node.value.id]
            names = {*dir(thing), *getattr(thing, "__dataclass_fields__", ())}
            assert node.attr in names, ast.unparse(node)
    (tmp_path / "together.py").write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "concise"]
    checked = subprocess.run([*command, "together.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


# The machinery, on notebooks made for the test


def as_text(picture: Image.Image) -> str:
    """A PNG as a notebook stores it."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


ONE_PIXEL = as_text(Image.new("1", (1, 1)))  # no smaller PNG says the same


def write_notebook(path: Path, *cells: str, tags=("parameters",)) -> Path:
    first = nbformat.v4.new_code_cell('profile = "laptop"\nrun_dir = "../runs/laptop"\nseed = 0')
    first.metadata["tags"] = list(tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)]), path)
    return path


@pytest.fixture
def small_repository(tmp_path) -> Path:
    """A repository with the project's Snakefile, one file in the package, and two notebooks in order."""
    repository = tmp_path / "repository"
    (repository / "workflow").mkdir(parents=True)
    shutil.copy(ROOT / "workflow" / "Snakefile", repository / "workflow")
    (repository / "workflow" / "notebooks.yaml").write_text(
        "00_first: {needs: [], uses: [model]}\n01_second: {needs: [00_first], uses: []}\n"
    )
    (repository / "vfusion3d" / "model").mkdir(parents=True)
    (repository / "vfusion3d" / "model" / "part.py").write_text("one = 1\n")
    begin = "from pathlib import Path"
    write_notebook(repository / "notebooks" / "00_first.ipynb", begin, "Path(run_dir, 'made').write_text(profile)")
    write_notebook(repository / "notebooks" / "01_second.ipynb", begin, "print(Path(run_dir, 'made').read_text())")
    return repository


def test_the_workflow_runs_what_is_out_of_date_and_no_more(small_repository, tmp_path):
    snakefile, results = small_repository / "workflow" / "Snakefile", tmp_path / "results"

    def to_do() -> list[str]:
        plan = snakemake(snakefile, results, "--dry-run")
        assert plan.returncode == 0, plan.stderr
        return [
            name
            for name in ("00_first", "01_second")
            if f"notebook {name} at profile smoke" in plan.stdout + plan.stderr
        ]

    # a fresh clone has the executed notebooks of others, and yet nothing has run in it
    for name in ("00_first", "01_second"):
        committed = results / "papermill_runs" / "smoke" / f"{name}.ipynb"
        committed.parent.mkdir(parents=True, exist_ok=True)
        committed.write_text("of another machine")
    assert to_do() == ["00_first", "01_second"]

    run = snakemake(snakefile, results)
    assert run.returncode == 0, run.stdout + run.stderr
    second = code_cells(results / "papermill_runs" / "smoke" / "01_second.ipynb")
    assert second[-1].outputs[0].text == "smoke\n"
    assert "profile smoke" in (results / "papermill_runs" / "smoke" / "index.html").read_text()
    assert to_do() == []

    (small_repository / "vfusion3d" / "model" / "part.py").write_text("two = 2\n")
    assert to_do() == ["00_first", "01_second"]
    (small_repository / "vfusion3d" / "model" / "part.py").write_text("one = 1\n")
    assert to_do() == []  # it is the content that counts

    write_notebook(small_repository / "notebooks" / "01_second.ipynb", "raise ValueError('not this time')")
    assert to_do() == ["01_second"]
    before = (results / "papermill_runs" / "smoke" / "01_second.ipynb").read_text()
    run = snakemake(snakefile, results)
    assert run.returncode != 0
    assert "ValueError: not this time" in run.stdout + run.stderr
    assert (results / "papermill_runs" / "smoke" / "01_second.ipynb").read_text() == before
    assert to_do() == ["01_second"]


def test_a_notebook_is_told_profile_run_dir_and_seed_and_keeps_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # as under `make test`, where figures must still be in the notebook
    source = write_notebook(
        tmp_path / "notebooks" / "00_first.ipynb",
        "print(profile, run_dir, seed)",
        "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()",
        "import os\nprint(os.path.abspath('../runs/x'), os.path.expanduser('~/secret'))",
        "import sys\nfor i in range(3):\n    print(f'\\r{i} of 3', end='', file=sys.stderr, flush=True)",
        "from vfusion3d.runs.progress import tqdm\nfor _ in tqdm(range(3), desc='outer'):\n"
        "    for _ in tqdm(iter(range(3)), desc='inner', mininterval=0):\n        pass",
    )
    notebook = nbformat.read(source, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("Solutions are in [solutions.md](solutions.md)."))
    nbformat.write(notebook, source)
    executed = run_notebook(source, "smoke", root=tmp_path, seed=7)
    (link,) = [cell.source for cell in nbformat.read(executed, 4).cells if cell.cell_type == "markdown"]
    assert link == "Solutions are in [solutions.md](../../notebooks/solutions.md)."
    assert executed == tmp_path / "papermill_runs" / "smoke" / "00_first.ipynb"
    *_, parameters, figure, paths, bar, tqdm_bars = code_cells(executed)
    assert parameters.outputs[0].text == "smoke ../runs/smoke 7\n"
    assert "image/png" in figure.outputs[0].data
    assert paths.outputs[0].text == "runs/x ~/secret\n"
    assert [output.text for output in bar.outputs] == ["2 of 3"]
    assert not tqdm_bars.outputs
    shown = capsys.readouterr().err
    assert "outer: 100%" in shown
    assert "inner: 3it" in shown
    assert str(tmp_path) not in executed.read_text()
    assert not list((tmp_path / "runs" / "smoke" / "unfinished").iterdir())


def test_a_notebook_that_fails_leaves_no_executed_copy_and_shows_its_error(tmp_path, capsys):
    source = write_notebook(tmp_path / "notebooks" / "00_first.ipynb", "1 / 0")
    assert main([str(source), "--profile", "smoke", "--root", str(tmp_path)]) == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert not list((tmp_path / "papermill_runs" / "smoke").iterdir())
    assert (tmp_path / "runs" / "smoke" / "unfinished" / "00_first.ipynb").is_file()


def test_a_notebook_without_parameters_is_refused(tmp_path):
    source = write_notebook(tmp_path / "notebooks" / "00_first.ipynb", tags=())
    with pytest.raises(NotebookError, match=r"00_first\.ipynb has no cell tagged `parameters`"):
        run_notebook(source, "smoke", root=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"cells"',
        b"\xff",
        b"[" * 100_000,
        b'{"cells": [], "metadata": {}, "nbformat": 3, "nbformat_minor": 0}',
    ]
    + [
        nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])).replace(*change).encode()
        for change in (
            ('"metadata": {}', '"metadata": {"tags": 7}'),
            ('"source": [', '"source": [7,'),
            ('"code"', '"x"'),
        )
    ],
)
def test_a_notebook_that_is_none_is_one_line_that_names_it(tmp_path, capsys, content):
    broken = tmp_path / "broken.ipynb"
    broken.write_bytes(content)
    assert main([str(broken), "--profile", "smoke", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert str(broken) in said[0]


def test_a_folder_in_the_way_of_an_executed_copy_is_named_before_a_cell_runs(tmp_path, capsys):
    (tmp_path / "papermill_runs/smoke" / SOURCES[0].name).mkdir(parents=True)
    assert main([str(SOURCES[0]), "--profile", "smoke", "--root", str(tmp_path)]) == 1
    assert "is a folder, in the way" in capsys.readouterr().err


def test_scrubbing_leaves_pictures_and_other_words_alone():
    home = str(Path.home())
    output = nbformat.v4.new_output("display_data", data={"image/png": ONE_PIXEL, "text/plain": f"{home}/abc"})
    stream = nbformat.v4.new_output("stream", text=f"{home}x /data{home} a\r\nb\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output, stream])])
    first, second = scrub(notebook).cells[0].outputs
    assert first.data == {"image/png": ONE_PIXEL, "text/plain": "~/abc"}
    assert second.text == f"{home}x /data{home} a\nb\n"


def test_scrubbing_keeps_the_picture_of_a_widget_and_drops_what_has_none():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Box()"}
    outputs = [
        nbformat.v4.new_output("display_data", data=data) for data in (widget, {**widget, "image/png": ONE_PIXEL})
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    (kept,) = scrub(notebook).cells[0].outputs
    assert kept.data == {"text/plain": "Box()", "image/png": ONE_PIXEL}


def test_the_pictures_of_an_executed_notebook_become_smaller_and_stay_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    output = nbformat.v4.new_output("display_data", data={"image/png": as_text(Image.fromarray(noise))})
    before = len(output.data["image/png"])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    kept = scrub(notebook).cells[0].outputs[0].data["image/png"]
    assert len(kept) < 0.75 * before  # noise cannot be packed: 5 bits are left of 8
    assert Image.open(io.BytesIO(base64.b64decode(kept))).size == (64, 64)


@pytest.mark.parametrize("where", ["papermill", "a cell"])
def test_a_notebook_without_room_is_one_line_and_its_older_copy_stays(tmp_path, monkeypatch, capsys, where):
    source = write_notebook(tmp_path / "notebooks" / "00_first.ipynb", "1 + 1")
    executed = tmp_path / "papermill_runs" / "smoke" / "00_first.ipynb"
    executed.parent.mkdir(parents=True)
    executed.write_text("older")
    full = OSError(28, "No space left on device")
    if where == "a cell":
        said = "[Errno 28] the disk is full, and what was whole before is kept: make room, run again: 'log.csv'"
        full = papermill.PapermillExecutionError(1, 1, "", "OSError", said, ["Traceback", "OSError"])
    monkeypatch.setattr(papermill, "execute_notebook", mock.Mock(side_effect=full))
    assert main([str(source), "--profile", "smoke", "--root", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the disk is full" in line
    assert ("unfinished/00_first.ipynb" if where == "papermill" else "'log.csv'") in line
    assert executed.read_text() == "older"


def test_an_executed_copy_is_not_executed_in_its_own_place(tmp_path, capsys):
    copy = write_notebook(tmp_path / "papermill_runs" / "smoke" / "00_first.ipynb", "1 + 1")
    before = copy.read_bytes()
    assert main([str(copy), "--profile", "smoke", "--root", str(tmp_path)]) == 1
    assert "00_first.ipynb would be replaced by its executed copy" in capsys.readouterr().err
    assert copy.read_bytes() == before


def test_an_interrupted_notebook_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vfusion3d.book.run.run_notebook", interrupted)
    assert main(["some.ipynb", "--root", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "some.ipynb: interrupted; the same command goes on\n"


def test_figures_and_tables_stand_beside_the_runs_and_are_shown(tmp_path, monkeypatch):
    run = book.begin("06_train_vfusion3d", "smoke", tmp_path / "runs" / "smoke")
    assert run.figures == tmp_path / "figures" / "smoke"
    alone = book.begin("06_train_vfusion3d", "smoke", tmp_path / "elsewhere")
    assert alone.figures == tmp_path / "elsewhere" / "figures"
    figure = book.drawings.orbit()
    assert run.save(figure, "06_here") is figure
    table = pd.DataFrame({("ssim", "smoke"): [0.5]}, index=pd.Index(["ours"], name="Method"))
    assert "| ours | 0.500 |" in run.table(table, "06_table", "a caption").data
    assert {"06_here.pdf", "06_here.png", "06_table.csv"} <= {path.name for path in run.figures.iterdir()}
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    inside = book.begin("06_train_vfusion3d", "laptop", "../runs/laptop").figures
    assert os.path.realpath(inside) == os.path.realpath(tmp_path / "figures" / "laptop")


def test_a_notebook_that_lacks_something_says_who_makes_it(tmp_path):
    run = book.begin("06_train_vfusion3d", "smoke", tmp_path / "runs" / "smoke")
    with pytest.raises(MissingArtifact, match="`vfusion3d generate --profile smoke` or the notebook 04_generate"):
        run.synthetic()
    with pytest.raises(MissingArtifact, match=r"`vfusion3d experiment .* --seed 0 --seeds 1 --profile smoke`"):
        run.results("table_3")
    assert run.path("synthetic_data") == tmp_path / "runs" / "smoke" / "data" / "synthetic"


def test_a_face_names_what_exists_and_loads_nothing_before_it_is_asked():
    rooms = [path.parent.name for path in (ROOT / "vfusion3d").glob("*/__init__.pyi")]
    assert len(rooms) > 5
    faces = [vfusion3d, *(importlib.import_module(f"vfusion3d.{room}") for room in rooms)]
    assert all(hasattr(face, name) for face in faces for name in face.__all__)
    asked = f"import sys; from vfusion3d import {', '.join(rooms)}; print({{'torch', 'pandas'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
