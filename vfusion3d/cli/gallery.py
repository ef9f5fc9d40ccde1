"""What `reconstruct` leaves beside the meshes of many pictures: a record, a contact sheet, and a page with viewers.

The page works from the disk, without a network: a picture on it opens that object's viewer in a frame.
"""

import html
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from urllib.parse import quote

RECORD, SHEET, PAGE, VIEWERS = "reconstructions.json", "contact_sheet.png", "index.html", "viewers"
ON_SHEET = 100  # rows, the first of them
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 0; display: flex; height: 100vh }
main { overflow-y: auto; padding: 1em; flex: 1 1 50% }
iframe { border: 0; border-left: 1px solid #ccc; flex: 1 1 50% }
article { margin-bottom: 1.5em }
img { display: block; max-width: 100% }
"""


def gallery_files(folder: Path, meshes: Sequence[Path]) -> list[Path]:
    """What is written into the folder beside these meshes."""
    shown = [file for mesh in meshes for file in views_of(folder, mesh)]
    return [*(folder / name for name in (RECORD, SHEET, PAGE)), folder / VIEWERS / "viewer.js", *shown]


class _Entry(TypedDict):
    picture: str
    outputs: NotRequired[list[str]]
    elevation: NotRequired[float]
    notices: NotRequired[list[str]]
    error: NotRequired[str]
    settings: NotRequired[dict[str, Any]]


class _Record(TypedDict):
    reconstructions: list[_Entry]


def read_record(folder: Path) -> list[dict[str, Any]]:
    """What was done in this folder before, a mapping each picture.

    Raises ReadingError where the record is none of ours, ValueError where a page or a sheet is, which has none.
    """
    from vfusion3d.runs.reading import ReadingError, read_json

    file = folder / RECORD
    if not file.exists():
        for other in (folder / SHEET, folder / PAGE):
            if other.exists():
                raise ValueError(f"{other}: is not by this command, and would be replaced: give another folder")
        return []
    entries = read_json(file, _Record, "move it away")["reconstructions"]
    if any(entry.get("outputs") == [] for entry in entries):
        raise ReadingError(f"{file}: outputs must name a file: move it away")
    return entries


def write_record(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write `RECORD`, a mapping for each picture: picture, outputs, elevation, notices, seconds, settings, or error."""
    from vfusion3d.runs.claim import write_whole

    text = json.dumps({"reconstructions": list(entries)}, indent=1, ensure_ascii=False)
    write_whole(folder / RECORD, partial(Path.write_text, data=text, encoding="utf-8"))


def write_views(folder: Path, file: Path, asset, mesh) -> None:
    """What the sheet and the page show of one object: a strip of views, and its viewer, with the mesh of this file."""
    from vfusion3d.runs.claim import write_whole

    strip, viewer = views_of(folder, file)
    write_whole(strip, partial(asset.views().save, format="PNG"))
    asset.save_viewer(viewer, mesh)


def views_of(folder: Path, mesh: Path) -> tuple[Path, Path]:
    """Where the strip of views and the viewer of the object in this file lie."""
    return folder / VIEWERS / f"{mesh.name}.png", folder / VIEWERS / f"{mesh.name}.html"


def write_sheet_and_page(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write `SHEET`, the first `ON_SHEET` strips under each other with their names, and `PAGE`."""
    from PIL import Image, ImageDraw

    from vfusion3d.runs.claim import write_whole

    made = [entry for entry in entries if "outputs" in entry]
    strips = [(entry, views_of(folder, folder / entry["outputs"][0])[0]) for entry in made]
    strips = [(Path(entry["picture"]).name, strip) for entry, strip in strips if strip.exists()][:ON_SHEET]
    if strips:
        pictures = [Image.open(strip, formats=["PNG"]) for _, strip in strips]
        row = pictures[0].height + 16
        sheet = Image.new("RGB", (max(picture.width for picture in pictures), row * len(pictures)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, ((name, _), picture) in enumerate(zip(strips, pictures, strict=True)):
            sheet.paste(picture, (0, row * place + 16))
            draw.text((4, row * place + 1), name, fill="black", font_size=12)
        write_whole(folder / SHEET, partial(sheet.save, format="PNG"))
    articles = "\n".join(_article(folder, entry) for entry in entries)
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Reconstructions</title>\n'
        f"<style>{STYLE}</style></head>\n<body><main>\n{articles}\n</main>\n"
        '<iframe name="viewer" title="viewer" srcdoc="Choose an object: it opens here."></iframe></body></html>\n'
    )
    write_whole(folder / PAGE, partial(Path.write_text, data=page, encoding="utf-8"))


def _article(folder: Path, entry: Mapping[str, Any]) -> str:
    title = f"<b>{html.escape(Path(entry['picture']).name)}</b>"
    if "outputs" not in entry:
        return f"<article>{title}: {html.escape(entry.get('error', 'not made'))}</article>"
    links = " ".join(f'<a href="{_link(output)}">{html.escape(Path(output).name)}</a>' for output in entry["outputs"])
    strip, viewer = (file.relative_to(folder) for file in views_of(folder, folder / entry["outputs"][0]))
    shown = (folder / strip).exists()
    picture = f'<a href="{_link(viewer)}" target="viewer"><img src="{_link(strip)}" alt="views"></a>' if shown else ""
    notices = "".join(f"<br>{html.escape(notice)}" for notice in entry.get("notices", []))
    elevation = f", seen from {entry['elevation']:.0f}°" if "elevation" in entry else ""
    return f"<article>{picture}{title} {links}{elevation}{notices}</article>"


def _link(path: str | Path) -> str:
    """A path, relative to the page or absolute, as an address."""
    path = Path(path)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def beside(folder: Path, file: Path) -> str:
    """How the record names a file: from the folder where that works, else whole."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return str(file.absolute())
