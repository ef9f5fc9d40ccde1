"""One page with all tables and figures of a run, the paper's numbers beside ours: papermill_runs/<profile>/index.html.

    python -m vfusion3d.book.summary --profile laptop

The page holds text and tables and points to the pictures in figures/<profile>/ and to the executed notebooks beside it,
by relative paths: it opens from the disk, without a network. What does not exist yet is named with the notebook that
makes it.
"""

import argparse
import html
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import jinja2

from vfusion3d.experiments.variants import load_experiments
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.profiles import load_profile
from vfusion3d.runs.reading import ReadingError, read_json


@dataclass(frozen=True)
class Part:
    """A table or figure of the paper: the notebook that makes it, and its files' name in figures/<profile>/."""

    title: str
    caption: str
    notebook: str
    stem: str


PARTS = (
    Part("Figure 3", "multi-view sequences by the fine-tuned video model", "04_generate_synthetic_data", "figure_3"),
    Part("Table 1", "image to 3D", "08_image_to_3d", "table_1"),
    Part("Figure 4", "single image 3D reconstruction", "08_image_to_3d", "figure_4"),
    Part("Table 2", "text to 3D", "09_text_to_3d", "table_2"),
    Part("Figure 6", "text to 3D", "09_text_to_3d", "figure_6"),
    Part("Figure 5", "the user study", "10_user_study", "figure_5"),
    Part("Table 3", "3D data for fine-tuning the video model", "11_ablation_video_data", "table_3"),
    Part("Table 4", "training strategies", "12_ablation_training_strategies", "table_4"),
    Part("Table 5", "fine-tuning VFusion3D on 3D data", "13_ablation_3d_finetuning", "table_5"),
    Part("Table 6", "3D data against synthetic data", "14_3d_vs_synthetic_data", "table_6"),
    Part("Figure 7", "scaling trends", "15_scaling_trends", "figure_7"),
)
PAGE = Path(__file__).with_name("summary.html")


class _Notebook(TypedDict):
    metadata: dict[str, Any]


def write_summary(profile: str | Path, root: str | Path = ".") -> Path:
    """Write root/papermill_runs/<profile>/index.html from what lies in root/figures/<profile>/, and return its path."""
    config = load_profile(profile)
    figures = Path(root) / "figures" / config.name
    runs = Path(root) / "papermill_runs" / config.name
    page = jinja2.Template(PAGE.read_text(encoding="utf-8"), autoescape=True, keep_trailing_newline=True).render(
        profile=config,
        roles=config.foundations,
        parts=PARTS,
        shown={part: files_of(part, figures) for part in PARTS},
        table=lambda file: markdown_table(file.read_text(encoding="utf-8")),
        away=f"../../figures/{config.name}",
        executed={path.stem: _executed(path) for path in sorted(runs.glob("*.ipynb"))},
    )
    return write_whole(runs / "index.html", partial(Path.write_text, data=page, encoding="utf-8"))


def files_of(part: Part, figures: Path) -> dict[str, dict[str, Path]]:
    """What there is of a table or a figure, which may be several: the files of each by suffix."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(figures.glob(f"{part.stem}*")):
        if re.fullmatch(rf"{part.stem}(_\D.*)?", path.stem):
            found.setdefault(path.stem, {})[path.suffix] = path
    return found


def _executed(notebook: Path) -> dict[str, Any]:
    """Where to read an executed notebook, as a page if there is one; its seconds; whether it only reads trainings."""
    page = notebook.with_suffix(".html")
    metadata = read_json(notebook, _Notebook, "run it again")["metadata"]
    tables = {part.stem for part in PARTS if part.notebook == notebook.stem}
    return {
        "link": page.name if page.exists() else notebook.name,
        "seconds": metadata.get("papermill", {}).get("duration"),
        "trains": bool(tables & set(load_experiments().tables)),
    }


def markdown_table(text: str) -> str:
    """A Markdown table, as `tables.to_markdown` writes it, as HTML; what else the text holds stays text."""
    lines = [line.strip() for line in text.strip().splitlines()]
    rows = [[_inline(cell) for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    others = "".join(f"<p>{_inline(line)}</p>" for line in lines if line and not line.startswith("|"))
    if len(rows) < 2:
        return others
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows[2:])
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>{others}'


def _inline(text: str) -> str:
    escaped = html.escape(text.strip()).replace("&lt;br&gt;", "<br>")
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vfusion3d.book.summary", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="laptop", help="a bundled profile, or a YAML file (default: laptop)")
    parser.add_argument("--root", type=Path, default=Path(), help="where papermill_runs/ and figures/ are")
    options = parser.parse_args(arguments)
    try:
        print(write_summary(options.profile, options.root))
    except (ReadingError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
