"""One page with all tables and figures of a run, the paper's numbers beside ours: papermill_runs/<profile>/index.html.

    python -m vfusion3d.book.summary --profile laptop

The page holds text and tables and points to the pictures in figures/<profile>/ and to the executed notebooks beside it,
by relative paths: it opens from the disk, without a network. What does not exist yet is named with the notebook that
makes it.
"""

import argparse
import html
import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vfusion3d.experiments.variants import load_experiments
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.profiles import ProfileError, load_profile


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
STYLE = Path(__file__).with_name("summary.css")


def write_summary(profile: str | Path, root: str | Path = ".") -> Path:
    """Write root/papermill_runs/<profile>/index.html from what lies in root/figures/<profile>/, and return its path."""
    config = load_profile(profile)
    root = Path(root)
    figures = root / "figures" / config.name
    runs = root / "papermill_runs" / config.name
    shown = {part: _part(part, figures) for part in PARTS}
    missing = [part for part, content in shown.items() if not content]
    name = html.escape(config.name)
    page = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>VFusion3D at {name}</title>',
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
        f"<h1>VFusion3D, reproduced: profile {name}</h1>",
        f"<p>{html.escape(config.description)}</p>",
        "<p>Every table and figure of the paper that this project makes, with the paper's published numbers beside "
        f"ours. Columns <em>paper</em> are published; columns <em>{name}</em> were measured at this profile, "
        f"{_scale(config)}. {_judges(config)}</p>",
    ]
    if missing:
        items = "".join(f"<li>{part.title}: <code>{part.notebook}</code> makes it</li>" for part in missing)
        page.append(f'<div class="missing"><p>Not made yet:</p><ul>{items}</ul></div>')
    page += ["<nav><ul>", *(f'<li><a href="#{p.stem}">{p.title}</a>: {p.caption}</li>' for p in PARTS), "</ul></nav>"]
    for part, content in shown.items():
        page += [f'<h2 id="{part.stem}">{part.title}: {part.caption}</h2>', _notebook(part.notebook, runs)]
        page.append(content or f'<p class="missing">Not made yet: the notebook {part.notebook} makes it.</p>')
    executed = sorted(path.stem for path in runs.glob("*.ipynb"))
    page += ["<h2>The executed notebooks</h2>", *(_notebook(stem, runs) for stem in executed), "</html>\n"]
    return write_whole(runs / "index.html", partial(Path.write_text, data="\n".join(page), encoding="utf-8"))


def _part(part: Part, figures: Path) -> str:
    """The table from its Markdown, or all pictures of that name; "" where there is neither."""
    away = f"../../figures/{figures.name}"
    found = sorted(path for path in figures.glob(f"{part.stem}*") if re.fullmatch(rf"{part.stem}(_\D.*)?", path.stem))
    blocks = []
    for stem in dict.fromkeys(path.stem for path in found):
        files = {path.suffix: path for path in found if path.stem == stem}
        if ".md" in files:
            blocks.append(markdown_table(files[".md"].read_text(encoding="utf-8")))
        elif ".png" in files:
            blocks.append(f'<p><img src="{away}/{stem}.png" alt="{part.title}: {html.escape(part.caption)}"></p>')
        links = ", ".join(f'<a href="{away}/{path.name}">{path.name}</a>' for path in files.values())
        blocks.append(f'<p class="files">{links}</p>')
    return "\n".join(blocks)


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


def _notebook(stem: str, runs: Path) -> str:
    """A line that links the executed notebook, as a page where there is one, and how long it took."""
    source = runs / f"{stem}.ipynb"
    if not source.exists():
        return f'<p class="small"><code>{stem}</code> has not run at this profile.</p>'
    link = f"{stem}.html" if (runs / f"{stem}.html").exists() else source.name
    seconds = json.loads(source.read_text(encoding="utf-8"))["metadata"].get("papermill", {}).get("duration")
    took = f", {seconds / 60:.1f} minutes" if seconds else ""
    tables = {part.stem for part in PARTS if part.notebook == stem}
    if took and tables & set(load_experiments().tables):
        took += ", after the training of its variants"
    return f'<p class="small">Executed notebook: <a href="{link}">{stem}</a>{took}</p>'


def _scale(config) -> str:
    if config.scale == 1:
        return "at the paper's own counts"
    divided = f"prompts and videos divided by {config.scale:,}, of 3D objects by {config.scale_3d:,}"
    return f"with the paper's counts of {divided}"


def _judges(config) -> str:
    who = f"CLIP: <code>{html.escape(config.foundations.clip)}</code>, "
    who += f"LPIPS: <code>{html.escape(config.foundations.perceptual_distance)}</code>."
    if "mini" in (config.foundations.clip, config.foundations.perceptual_distance):
        who += " These are miniatures: compare our rows with each other, and not with the paper's."
    return who


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vfusion3d.book.summary", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="laptop", help="smoke, laptop (default), gpu, paper, or a YAML file")
    parser.add_argument("--root", type=Path, default=Path(), help="where papermill_runs/ and figures/ are")
    options = parser.parse_args(arguments)
    try:
        print(write_summary(options.profile, options.root))
    except (ProfileError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
