"""Runs one notebook from top to bottom with papermill.

    python -m vfusion3d.book.run notebooks/01_render_3d_data.ipynb --profile smoke
    python -m vfusion3d.book.run notebooks/*.ipynb --profile paper --dry-run

The executed copy appears under its name only when every cell has run, and says nothing of the machine it ran on.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import nbformat
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from vfusion3d.runs.claim import full_disk, naming_a_full_disk, write_whole
from vfusion3d.runs.lock import hold
from vfusion3d.runs.pictures import smaller_png
from vfusion3d.runs.profiles import FOLDER, load_profile, profile_path
from vfusion3d.runs.progress import TEXT
from vfusion3d.runs.ranges import in_range
from vfusion3d.runs.reading import REMEDY, ReadingError, read_json

if TYPE_CHECKING:
    from pandas import DataFrame

WIDGET = "application/vnd.jupyter.widget-view+json"  # of progress bars: what is stored is their first moment
CURSOR_UP = "\x1b[A"  # what tqdm writes between bars that stand below one another
BAR = re.compile(r"^.*\d+%\|.*\[.*\]$|^.*\d+\S* \[(\d+:)?\d\d:\d\d, .*\]$")  # tqdm's text, with and without a total


class NotebookError(RuntimeError):
    """A notebook that did not run to its end; the message holds the notebook's own error."""


def run_notebook(notebook: str | Path, profile: str | Path, root: str | Path = ".", seed: int = 0) -> Path:
    """Executes `notebook` at `profile` and returns the executed copy, root/papermill_runs/<profile>/<name>.ipynb.

    The cells run in the notebook's folder, as in JupyterLab, with the parameters `profile`, `run_dir`
    (root/runs/<profile>) and `seed`. Their output is shown as it comes. Raises NotebookError where the notebook has no
    cell tagged `parameters` or a cell fails; what ran until then stays in run_dir/unfinished/. Raises OSError where the
    disk is full, InUse where another process runs it there.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    notebook = Path(notebook)
    root = Path(root)
    name = load_profile(profile).name
    if not any("parameters" in cell.metadata.get("tags", []) for cell in read_notebook(notebook).cells):
        raise NotebookError(f"{notebook} has no cell tagged `parameters`, so it cannot be told its profile")

    run_dir = root / "runs" / name
    unfinished = run_dir / "unfinished" / notebook.name
    executed = root / "papermill_runs" / name / notebook.name
    for folder in (unfinished.parent, executed.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if os.path.realpath(notebook) in (os.path.realpath(unfinished), os.path.realpath(executed)):
        raise NotebookError(f"{notebook} would be replaced by its executed copy: give the one in notebooks/")
    if in_the_way := [path for path in (unfinished, executed) if path.is_dir()]:
        raise NotebookError(f"{in_the_way[0]} is a folder, in the way of the executed copy: move it away")
    parameters = _parameters(notebook, profile, run_dir, seed)
    with hold(unfinished.with_name(f".{notebook.name}.lock")):
        try:
            with _kernel_environment():
                papermill.execute_notebook(
                    _as_it_is(notebook),
                    _as_it_is(unfinished),
                    parameters=parameters,
                    cwd=notebook.parent,
                    kernel_name="python3",
                    language="python",
                    progress_bar=False,
                    extra_arguments=["--log-level=CRITICAL"],  # of readers it does not know, of interrupts
                    stdout_file=sys.stdout,
                    stderr_file=sys.stderr,
                )
        except papermill.PapermillExecutionError as error:
            if full_disk(OSError(error.evalue)):
                raise OSError(f"{notebook}: {error.evalue}") from error
            raise NotebookError(f"{error}\n{notebook} failed; as far as it came it is in {unfinished}") from error
        except OSError:
            with naming_a_full_disk(unfinished):
                raise
        except DeadKernelError as error:
            raise NotebookError(f"{notebook}: its kernel was killed, most often because memory ran out") from error

        finished = scrub(nbformat.read(unfinished, 4), notebook.resolve().parents[1], root.resolve())
        if root.resolve() == notebook.resolve().parents[1]:
            for cell in finished.cells:  # what lies beside the source does not lie beside the copy
                if cell.cell_type == "markdown":
                    cell.source = cell.source.replace("](solutions.md)", "](../../notebooks/solutions.md)")
        finished.metadata.papermill.input_path = f"notebooks/{notebook.name}"
        finished.metadata.papermill.output_path = f"papermill_runs/{name}/{notebook.name}"
        write_whole(executed, partial(nbformat.write, finished))
        unfinished.unlink()
    return executed


class _Notebook(TypedDict):
    cells: list[dict[str, Any]]
    metadata: dict[str, Any]
    nbformat: Literal[4]
    nbformat_minor: int


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook of format 4. Raises ReadingError that names the file where it is broken, OSError where there is none.

    nbformat by itself only logs what is wrong, or trips over it.
    """
    content = read_json(path, _Notebook)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ids of cells, which it adds
            nbformat.validate(content)
        return nbformat.reads(json.dumps(content), 4)
    except (nbformat.ValidationError, AttributeError, TypeError, ValueError) as error:
        raise ReadingError(
            f"{path} is no whole notebook ({str(error).strip().splitlines()[0][:200]}): {REMEDY}"
        ) from error


def _as_it_is(path: Path) -> str:
    """A path for papermill, which would put parameters in the place of {names}."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _parameters(notebook: Path, profile: str | Path, run_dir: Path, seed: int) -> dict[str, Any]:
    """What a notebook is told; paths as seen from its folder, where its cells run."""
    own = profile_path(profile).parent != FOLDER
    return {
        "profile": os.path.relpath(profile, notebook.parent) if own else str(profile),
        "run_dir": os.path.relpath(run_dir, notebook.parent),
        "seed": seed,
    }


@contextlib.contextmanager
def _kernel_environment():
    """Environment variables for the kernel, which inherits this process's."""
    before = dict(os.environ)
    os.environ.pop("MPLBACKEND", None)  # a backend without a screen would also keep the figures out of the notebook
    os.environ[TEXT] = "1"
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # seconds: in a log every state of a bar stays
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, whatever else the user has installed
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def scrub(notebook: nbformat.NotebookNode, *folders: Path) -> nbformat.NotebookNode:
    """Takes out of the outputs what only says on which machine they were made, in place.

    Paths inside `folders` become relative, the home folder `~`, Python's own folder `<python>`, the temporary files of
    cells `<cell>`. No progress bar stays, and of another widget the picture that came with it. Pictures become
    smaller.
    """
    places = [(str(folder), "") for folder in folders]
    places += [(sys.prefix, "<python>"), (sys.base_prefix, "<python>"), (str(Path.home()), "~")]
    places += [(os.path.realpath(path), name) for path, name in places]
    places = sorted({(path, name) for path, name in places if len(path) > 1}, key=lambda place: -len(place[0]))

    def clean(text: str) -> str:
        text = re.sub(rf"{re.escape(tempfile.gettempdir())}/ipykernel_\d+/\d+\.py", "<cell>", text)
        for path, name in places:
            start = rf"(?<![\w/.~-]){re.escape(path)}"
            text = re.sub(rf"{start}/", f"{name}/" if name else "", text)
            text = re.sub(rf"{start}(?![\w.-])", name or ".", text)
        return text

    streams = CoalesceStreamsPreprocessor()  # a progress bar arrives in many pieces
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "papermill" in cell.metadata:
            cell.metadata.papermill = {"duration": cell.metadata.papermill.duration}
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if _is_more_than_a_widget(output)]
        cell, _ = streams.preprocess_cell(cell, {}, 0)
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
            if png := output.get("data", {}).get("image/png"):
                output.data["image/png"] = base64.b64encode(smaller_png(base64.b64decode(png))).decode()
            if output.output_type == "stream":
                output.text = _without_bars(clean(output.text))
            for kind, content in output.get("data", {}).items():
                if isinstance(content, str) and kind.startswith("text/"):
                    output.data[kind] = clean(content)
            if "traceback" in output:
                output.traceback = [clean(line) for line in output.traceback]
                output.evalue = clean(output.evalue)
        cell.outputs = [out for out in cell.outputs if out.output_type != "stream" or out.text.strip()]
    return notebook


def _is_more_than_a_widget(output: nbformat.NotebookNode) -> bool:
    """Whether something can be seen where no widget can live: a picture that came with it."""
    data = output.get("data", {})
    return WIDGET not in data or any(kind.startswith("image/") for kind in data)


def _without_bars(text: str) -> str:
    """What a terminal would show in the end, without progress bars."""
    lines = [line.rstrip("\r") for line in text.replace(CURSOR_UP, "").split("\n")]
    return "\n".join(line for line in lines if not BAR.match(line.rstrip()))


def dry_run(notebook: str | Path, profile: str | Path) -> "DataFrame":
    """What the notebook of this name would do at `profile` (`vfusion3d.book.plan`), a step a row; it is not opened.

    Raises NotebookError for one that has no plan.
    """
    from vfusion3d.book.plan import plan

    config = load_profile(profile)
    try:
        return plan(Path(notebook).stem, config)
    except ValueError as error:
        raise NotebookError(f"{notebook}: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 with the notebook's error where it did not run to its end."""
    parser = argparse.ArgumentParser(prog="python -m vfusion3d.book.run", description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="+", metavar="notebook", help="an .ipynb file, or several")
    parser.add_argument("--profile", default="laptop", help="a bundled profile, or a YAML file (default: laptop)")
    parser.add_argument("--root", type=Path, default=Path(), help="where runs/, papermill_runs/ and figures/ go")
    parser.add_argument("--seed", type=in_range("seed"), default=0)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    options = parser.parse_args(arguments)
    plans = []
    for notebook in options.notebooks:
        try:
            if options.dry_run:
                plans.append(dry_run(notebook, options.profile))
                planned = plans[-1].fillna("").to_string(index_names=False)
                print(f"{notebook} at profile {load_profile(options.profile).name}\n{planned}\n")
            else:
                executed = run_notebook(notebook, options.profile, options.root, options.seed)
                print(f"{notebook} ran; executed copy in {executed}")
        except (NotebookError, ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{notebook}: interrupted; the same command goes on", file=sys.stderr)
            return 130
    if len(plans) > 1:
        from vfusion3d.book.plan import sum_of

        print(sum_of(plans))
    return 0


if __name__ == "__main__":
    sys.exit(main())
