"""The page that shows all tables and figures of a run at once."""

from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure

from vfusion3d.book.plan import STEPS
from vfusion3d.book.summary import PARTS, main, markdown_table, write_summary
from vfusion3d.evaluation.figures import save
from vfusion3d.evaluation.tables import compare, paper_table, write_table


class Page(HTMLParser):
    """The texts of a page's table cells, and all it points to."""

    def __init__(self, text: str):
        super().__init__()
        self.cells, self.targets, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.targets += [value for name, value in attributes if name in ("href", "src")]
        self.inside = self.inside or tag in ("td", "th")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


@pytest.fixture
def run(tmp_path) -> Path:
    """Table 4, Figure 4 in two pictures, and two executed notebooks."""
    ours = pd.DataFrame({"lpips": [0.123], "lpips_std": [0.004]}, index=["Baseline"])
    table = compare(ours, paper_table("table_4").rows, profile="smoke", label="Components")
    write_table(table, tmp_path / "figures" / "smoke" / "table_4")
    for name in ("figure_4_mini", "figure_4_ours", "figure_41", "08_other"):
        save(Figure(figsize=(1, 1)), tmp_path / "figures" / "smoke" / name)
    executed = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 90.0}})
    (tmp_path / "papermill_runs" / "smoke").mkdir(parents=True)
    for name in ("08_image_to_3d", "12_ablation_training_strategies"):
        nbformat.write(executed, tmp_path / "papermill_runs" / "smoke" / f"{name}.ipynb")
    return tmp_path


def test_tables_stand_on_the_page_with_the_papers_numbers_beside_ours(run):
    page = Page(write_summary("smoke", run).read_text())
    at = page.cells.index("Baseline")
    assert page.cells[at + 1 : at + 6] == ["0.826", "0.206", "0.123 ± 0.004", "0.223", "0.712"]
    assert "LPIPS ↓paper" in page.cells
    assert "LPIPS ↓smoke" in page.cells


def test_all_that_the_page_points_to_is_there_and_beside_it(run):
    path = write_summary("smoke", run)
    targets = Page(path.read_text()).targets
    files = [target for target in targets if not target.startswith("#")]
    assert files
    assert all((path.parent / target).is_file() for target in files)
    assert not [target for target in files if "://" in target or target.startswith("/")]
    pictures = {Path(target).name for target in files if target.endswith(".png")}
    assert pictures == {"figure_4_mini.png", "figure_4_ours.png"}
    assert {"table_4.csv", "table_4.md", "table_4.tex"} <= {Path(target).name for target in files}
    assert "08_image_to_3d.ipynb" in files
    assert {target[1:] for target in targets if target.startswith("#")} == {part.stem for part in PARTS}


def test_what_is_missing_is_named_with_the_notebook_that_makes_it(run):
    text = write_summary("smoke", run).read_text()
    for part in PARTS:
        missing = f"<li>{part.title}: <code>{part.notebook}</code> makes it</li>"
        assert (missing in text) == (part.stem not in ("table_4", "figure_4")), part
    assert "08_image_to_3d</a>, 1.5 minutes</p>" in text
    assert "12_ablation_training_strategies</a>, 1.5 minutes, after the training of its variants</p>" in text


def test_the_page_has_all_tables_and_the_figures_of_results_and_notebooks_that_exist():
    assert {part.title for part in PARTS} == {f"Table {n}" for n in range(1, 7)} | {f"Figure {n}" for n in range(3, 8)}
    assert {part.notebook for part in PARTS} <= set(STEPS)


def test_a_run_of_nothing_gives_a_page_that_says_so(tmp_path, capsys):
    assert main(["--profile", "smoke", "--root", str(tmp_path)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "papermill_runs" / "smoke" / "index.html"
    assert path.read_text().count("makes it</li>") == len(PARTS)


def test_an_unknown_profile_is_one_line(tmp_path, capsys):
    assert main(["--profile", "huge", "--root", str(tmp_path)]) == 1
    assert "no profile 'huge'" in capsys.readouterr().err


def test_texts_of_tables_cannot_break_the_page():
    table = markdown_table("| <b> | a<br>b |\n| :-- | --: |\n| x & y | **1** |\n")
    assert "<th>&lt;b&gt;</th><th>a<br>b</th>" in table
    assert "<td>x &amp; y</td><td><strong>1</strong></td>" in table
