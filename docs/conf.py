"""Sphinx's settings for the book: the executed notebooks of a profile, the tables, a glossary, and the docstrings.

    make book [PROFILE=laptop]        # writes _book/html/, which opens from the disk, without a network

A notebook that has not been executed at that profile is shown without outputs, and says so. Formulas become MathML,
which browsers draw themselves; nothing is loaded from elsewhere.
"""

import os
import re
import shutil
from pathlib import Path

import nbformat
from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from vfusion3d.book.summary import PARTS, files_of

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "docs" / "notebooks"  # made anew by each build
PROFILE = os.environ.get("PROFILE", "laptop")
NOT_RUN = (
    f"```{{note}}\nThis notebook has not been executed at `{PROFILE}` yet, so it is shown without its outputs.\n```\n"
)

project = "VFusion3D, reproduced in the open"
author = "the VFusion3D reproduction"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "sphinx_book_theme"
html_title = "VFusion3D"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True, "use_download_button": False}
html_context = {"default_mode": "auto"}
html_show_search_summary = False  # it would fetch pages, which no browser does from the disk
html_css_files = ["book.css"]
html_static_path = ["static"]
html_math_renderer = "mathml"
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
suppress_warnings = ["docutils", "myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
exclude_patterns = ["static"]


def take_notebooks(*_) -> None:
    """Copy what the book shows into docs/notebooks/: executed notebooks, solutions, tables with their figures."""
    shutil.rmtree(MADE, ignore_errors=True)
    MADE.mkdir()
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = ROOT / "papermill_runs" / PROFILE / source.name
        notebook = nbformat.read(executed if executed.exists() else source, 4)
        if not executed.exists():
            title, _, rest = notebook.cells[0].source.partition("\n")
            notebook.cells[0].source = f"{title}\n\n{NOT_RUN}{rest}"
        notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
        for cell in notebook.cells:
            cell.source = cell.source.replace("](../../notebooks/solutions.md)", "](solutions.md)")
            if cell.source == "run.plan()":
                cell.metadata["tags"] = ["hide-output"]
            for output in cell.get("outputs", []):
                if "text/html" in output.get("data", {}):  # the map of links
                    html = output.data["text/html"]
                    output.data["text/html"] = re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', html)
        nbformat.write(notebook, MADE / source.name)
    shutil.copy(ROOT / "notebooks" / "solutions.md", MADE)
    (MADE / "tables.md").write_text("\n\n".join(["# Every table and figure", *map(as_markdown, PARTS)]), "utf-8")


def as_markdown(part) -> str:
    """A table or figure of the paper, with ours, and a link to its notebook."""
    lines = [f"## {part.title}: {part.caption}", f"From [{part.notebook}]({part.notebook}.ipynb)."]
    for files in files_of(part, ROOT / "figures" / PROFILE).values():
        if ".md" in files:
            lines.append(files[".md"].read_text(encoding="utf-8"))
        elif ".png" in files:
            shutil.copy(files[".png"], MADE)
            lines.append(f"![{part.title}]({files['.png'].name})")
    return "\n\n".join(lines)


def _mathml(display: str):
    def visit(self, node) -> None:
        self.body.append(convert(node.astext(), display=display))
        if display == "block":
            self.body.append("\n")
        raise SkipNode

    return visit


def setup(app: Sphinx) -> None:
    """Take the notebooks first; draw formulas as MathML."""
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))
    app.connect("config-inited", take_notebooks)
    app.connect("source-read", _beside)


def _beside(app: Sphinx, page: str, content: list[str]) -> None:
    """Links that work in the repository work in the book too."""
    content[0] = content[0].replace("](../notebooks/", "](notebooks/")
