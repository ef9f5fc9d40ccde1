"""Labs from their sources, by nbgrader: `make labs`, `make grade SUBMISSIONS=folder`, `make lab-data`.

source/LAB/LAB.ipynb is the only notebook that is written by hand: solutions stand between BEGIN and END SOLUTION in
cells tagged `solution`, and hidden tests at the end of cells tagged `test`.

    student/LAB/LAB.ipynb      holes with a docstring and a hint, and the tests that a student may see
    solutions/LAB/LAB.ipynb    everything
    marks.csv                  a row for each student and exercise, after grading
    feedback/STUDENT/LAB/      the student's notebook with what each test said

A student's code runs with your rights when it is graded, as in every autograder without a container.
"""

import argparse
import os
import re
import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from traitlets.config import Config

from vfusion3d.runs import layout
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.reading import read_table

HERE = Path(__file__).resolve().parent
MARKERS = re.compile(r"^ *### (BEGIN|END) (SOLUTION|HIDDEN TESTS)\n?", re.MULTILINE)
OBJECTS, VIEWS = 40, 4  # what lab 3 compares where there is no run: objects, and views of each
TABLE_6 = {"3D data": "3D data", "synthetic data": "Synthetic data"}  # rows of a run that lab 3 compares: here, there


def labs(root: Path) -> list[str]:
    """The labs that there are, in order."""
    return sorted(path.stem for path in (root / "source").glob("*/*.ipynb"))


def nbgrader(root: Path):
    """nbgrader on this folder. Its log says what went wrong in a notebook."""
    from nbgrader.apps import NbGraderAPI  # takes a second

    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls alembic
    config = Config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.release_directory = "student"
    config.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("write this")'}
    config.ExecutePreprocessor.timeout = 300  # seconds a cell
    config.ExecutePreprocessor.extra_arguments = ["--log-level=CRITICAL"]
    warnings.filterwarnings("ignore", module="nbgrader")  # of its own database queries
    return NbGraderAPI(config=config)


def make(root: Path) -> None:
    """Write student/ and solutions/. Raises RuntimeError where nbgrader refuses a source."""
    api = nbgrader(root)
    for lab in labs(root):
        _succeed(api.generate_assignment(lab, force=True, create=True), f"source/{lab}")
        notebook = nbformat.read(root / "source" / lab / f"{lab}.ipynb", 4)
        for cell in notebook.cells:
            cell.source = MARKERS.sub("", cell.source).rstrip("\n")
        target = root / "solutions" / lab / f"{lab}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, partial(nbformat.write, notebook))


def grade(root: Path, submissions: Path) -> pd.DataFrame:
    """Grade submissions/STUDENT/LAB.ipynb (deeper folders are fine), and write marks.csv and feedback/.

    Returns the marks: a row for each student, lab and exercise. Raises FileNotFoundError where nothing is handed in.
    """
    handed_in = [
        (path.relative_to(submissions).parts[0], path)
        for path in sorted(submissions.glob("*/**/*.ipynb"))
        if path.stem in labs(root) and ".ipynb_checkpoints" not in path.parts
    ]
    if not handed_in:
        raise FileNotFoundError(f"{submissions} has no STUDENT/lab1.ipynb: a folder for each student is expected")
    make(root)
    api, rows = nbgrader(root), []
    for student, path in handed_in:
        lab = path.stem
        into = root / "submitted" / student / lab
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into / f"{lab}.ipynb")
        _succeed(api.autograde(lab, student, force=True, create=True), path)
        _succeed(api.generate_feedback(lab, student, force=True), path)
        with api.gradebook as gradebook:
            for notebook in gradebook.find_submission(lab, student).notebooks:
                marks = {grade.name.removeprefix("test_"): (grade.score, grade.max_score) for grade in notebook.grades}
                rows += [(student, lab, name, *mark) for name, mark in marks.items()]
    table = pd.DataFrame(rows, columns=["student", "lab", "exercise", "points", "of"])
    write_whole(root / "marks.csv", partial(table.to_csv, index=False))
    return table


def data(root: Path, run_dir: Path, objects: int = OBJECTS) -> Path:
    """Write data/scores.csv, what lab 3 compares: rows of Table 6 from a run, else the two bundled models."""
    from vfusion3d.experiments.run import SCORES
    from vfusion3d.experiments.variants import load_experiments

    variants = load_experiments().tables["table_6"]
    found = {name: layout.experiment(run_dir, variants[row], 0) / SCORES for name, row in TABLE_6.items()}
    if all(path.exists() for path in found.values()):
        columns = dict.fromkeys(("test", "key", "category"), str) | dict.fromkeys(("psnr", "ssim", "lpips"), float)
        tables = [read_table(path, columns).query("test == '3d'").assign(method=name) for name, path in found.items()]
        scores = pd.concat(tables)
    else:
        print(f"{run_dir} has no rows of Table 6 (`make reproduce` makes them): comparing the bundled base and mini")
        scores = _of_bundled(root / "data" / "objects", objects)
    from vfusion3d.world import COMMON

    scores = scores.assign(common=scores["category"].isin(COMMON))
    columns = ["method", "key", "category", "common", "psnr", "ssim", "lpips"]
    (root / "data").mkdir(exist_ok=True)
    return write_whole(root / "data" / "scores.csv", partial(scores[columns].to_csv, index=False))


def _of_bundled(folder: Path, objects: int) -> pd.DataFrame:
    from vfusion3d import VFusion3D
    from vfusion3d.data.render_dataset import render_dataset
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.evaluation import evaluate_3d, model_predictor
    from vfusion3d.foundations.perceptual import perceptual_distance
    from vfusion3d.runs.profiles import load_profile
    from vfusion3d.world.unseen import UNSEEN_SEED, UnseenObjects

    render_dataset(folder, UnseenObjects(), objects, views=9, size=64, seed=UNSEEN_SEED, workers=1, overwrite=True)
    models = {name: model_predictor(VFusion3D.from_pretrained(name).eval()) for name in ("base", "mini")}
    judge = perceptual_distance(load_profile("laptop"))
    told = {"views": VIEWS, "size": 64, "device": "cpu", "perceptual": judge, "generator": np.random.default_rng(0)}
    return evaluate_3d(models, MultiviewShards(folder), **told)


def _succeed(result: dict, what) -> None:
    if not result["success"]:
        raise RuntimeError(f"{what}: {(result.get('error') or result.get('log') or 'nbgrader failed').strip()}")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["make", "grade", "data"])
    parser.add_argument("--submissions", type=Path, help="a folder with a folder for each student")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/laptop"))
    options = parser.parse_args(arguments)
    try:
        if options.what == "make":
            make(HERE)
            print(f"{', '.join(labs(HERE))}: labs/student/ to hand out, labs/solutions/ for you")
        elif options.what == "data":
            print(data(HERE, options.run_dir))
        elif options.submissions is None or not options.submissions.is_dir():
            raise FileNotFoundError("say whose: make grade SUBMISSIONS=folder, with a folder for each student in it")
        else:
            marks = grade(HERE, options.submissions)
            print(marks.pivot_table("points", "student", "lab", aggfunc="sum").to_string())
            print("labs/marks.csv has every exercise, labs/feedback/ a page for each student")
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
