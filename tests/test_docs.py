"""The book's own pages: every notebook has its place, and what they point to exists."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXT = {path.stem: path.read_text() for path in PAGES}


def test_every_notebook_and_page_is_in_the_table_of_contents_once():
    lists = re.findall(r"```\{toctree\}\n(.*?)```", TEXT["index"], re.DOTALL)
    listed = [line for text in lists for line in text.splitlines() if line and not line.startswith(":")]
    notebooks = [f"notebooks/{name}" for name in yaml.safe_load((ROOT / "workflow" / "notebooks.yaml").read_text())]
    made = ["notebooks/tables", "notebooks/solutions"]
    assert sorted(listed) == sorted([*notebooks, *made, *(page.stem for page in PAGES if page.stem != "index")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_notebooks_lead_somewhere(page):
    for target in re.findall(r"\]\((\.\./[^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def code_names() -> list[str]:
    """What the page of symbols says is in the code: files, and names with a dot."""
    return [name for row in re.findall(r"\|([^|\n]*)\|\n", TEXT["paper"]) for name in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("name", [name for name in code_names() if "/" in name or name.endswith(".py")])
def test_a_file_in_the_table_exists(name):
    assert (ROOT / "vfusion3d" / name).exists()


@pytest.mark.parametrize(
    "name", [name for name in code_names() if "." in name and "/" not in name and ".py" not in name]
)
def test_a_name_in_the_table_exists(name):
    profiles = importlib.import_module("vfusion3d.runs.profiles")
    head, last = name.rsplit(".", 1)
    if head in ("Recipe", "Video", "data"):
        assert last in {"Recipe": profiles.Recipe, "Video": profiles.Video, "data": profiles.Data}[head].__annotations__
    elif head == "VFusion3D":
        assert hasattr(importlib.import_module("vfusion3d.model.vfusion3d").VFusion3D, last)
    else:
        room = {"rendering": "model.rendering"}.get(head, head)
        assert hasattr(importlib.import_module(f"vfusion3d.{room}"), last)


def test_the_functions_that_the_book_documents_have_docstrings():
    documented = 0
    for directive, members in re.findall(r"auto\w+:: (\S+)(?:\n   :members: *(.*))?", TEXT["api"]):
        module, _, name = directive.rpartition(".")
        try:
            thing = importlib.import_module(directive)
        except ModuleNotFoundError:
            thing = getattr(importlib.import_module(module), name)
        for member in filter(None, members.split(", ")):
            found = getattr(thing, member)
            assert found.__doc__, f"{directive}.{member}"
            documented += 1
    assert documented > 20


def test_the_glossary_is_in_alphabetical_order_and_each_word_is_explained():
    entries = re.findall(r"^(\S.*)\n  (.+)$", TEXT["paper"].partition("```{glossary}")[2], re.MULTILINE)
    words = [word.lower() for word, _ in entries]
    assert len(words) > 20
    assert words == sorted(words)
