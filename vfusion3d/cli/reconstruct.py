"""`vfusion3d reconstruct`: pictures to 3D meshes (section 4.2)."""

import argparse
import math
import os
import sys
import time
from pathlib import Path

from vfusion3d.cli.page import new_page, one_line

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
MESH_SUFFIXES = (".glb", ".obj", ".ply")
VIDEO_SUFFIXES = (".mp4", ".gif")
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
        help="a .glb, .obj or .ply file for one picture; a folder for any number (default: this one)",
    )
    page.add_argument("--format", choices=["glb", "obj", "ply"], default="glb", help="of meshes in a folder")
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
    page.add_argument("--resolution", type=int, default=256, help="grid points along each side of the mesh")
    page.add_argument("--background", choices=BACKGROUNDS, default="auto", help="how the object is cut out")
    page.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")


def run_reconstruct(options: argparse.Namespace) -> int:
    """Pictures to 3D meshes (and turntable videos).

    Reconstruct the object on each picture as a mesh with vertex colours.

    The background is removed and the object centred first: one object, all of it visible, works best.
    A picture that cannot be used is reported in one line; the others go on, and the exit code is 1.
    GLB files are y-up with the photographed side to the front; OBJ and PLY are z-up with that side towards +x.

    examples:
      vfusion3d reconstruct photo.jpg -o photo.glb --video photo.mp4
      vfusion3d reconstruct photos/ more.png -o meshes/ --video videos/
      vfusion3d reconstruct photo.jpg -o photo.glb --weights facebook/vfusion3d
    """
    pictures, empty = _pictures(options.images)
    several = len(pictures) > 1 or any(Path(image).is_dir() for image in options.images)
    output = getattr(options, "output", Path())
    meshes = _outputs(options, "-o", output, pictures, several, MESH_SUFFIXES, f".{options.format}")
    videos = _outputs(options, "--video", options.video, pictures, several, VIDEO_SUFFIXES, ".mp4")
    cutouts = _outputs(options, "--cutout", options.cutout, pictures, several, (".png",), ".png")
    if not 8 <= options.resolution <= 1024:
        options.parser.error(f"--resolution {options.resolution}: must be between 8 and 1024")
    if options.elevation is not None and not abs(options.elevation) < 90:
        options.parser.error(f"--elevation {options.elevation:g}: must be between -90 and 90 degrees")
    if not 16 <= options.video_size <= 2048:
        options.parser.error(f"--video-size {options.video_size}: must be between 16 and 2048")

    from vfusion3d.runs.progress import tqdm

    failed = len(empty)
    for folder in empty:
        print(f"vfusion3d reconstruct: {folder}: has no pictures ({' '.join(PICTURE_SUFFIXES)})", file=sys.stderr)
    if not any(Path(picture).expanduser().is_file() or "://" in picture for picture in pictures):
        for picture in pictures:
            print(f"vfusion3d reconstruct: {picture}: no such file; check the path", file=sys.stderr)
        return 1
    pipeline = _pipeline(options)
    bar = tqdm(pictures, desc="reconstruct", unit="image", disable=None)
    for picture, mesh, video, cutout in zip(bar, meshes, videos, cutouts, strict=True):
        bar.set_postfix_str(Path(picture).name)
        start = time.perf_counter()
        try:
            _reconstruct(pipeline, picture, mesh, video, cutout, options)
        except (ValueError, OSError, RuntimeError) as error:
            failed += 1
            message = one_line(error)
            name = one_line(picture)  # a name may hold a line break
            named = message if message.startswith(name) else f"{name}: {message}"
            bar.write(f"vfusion3d reconstruct: {named}", file=sys.stderr)
        else:
            written = " and ".join(str(file) for file in (mesh, video, cutout) if file)
            bar.write(f"{picture} -> {written} ({time.perf_counter() - start:.1f} s)")
    bar.close()
    return 1 if failed else 0


def _reconstruct(
    pipeline, picture: str, mesh: Path, video: Path | None, cutout: Path | None, options: argparse.Namespace
) -> None:
    elevation = None if options.elevation is None else math.radians(options.elevation)
    asset = pipeline(picture, elevation=elevation, background=options.background)
    if cutout is not None:
        from torchvision.utils import save_image

        cutout.parent.mkdir(parents=True, exist_ok=True)
        save_image(asset.image, cutout)
    asset.save(mesh, resolution=options.resolution)
    if video is not None:
        asset.turntable(video, size=options.video_size, progress=sys.stderr.isatty())


def _pipeline(options: argparse.Namespace):
    from vfusion3d import ImageTo3DPipeline

    try:
        return ImageTo3DPipeline.from_pretrained(options.weights, device=options.device)
    except (ValueError, OSError, RuntimeError) as error:
        names = "mini, base, a folder made by save_pretrained, or a name on the hub"
        raise ValueError(f"weights {options.weights!r} cannot be loaded ({one_line(error)}): use {names}") from error


def _pictures(images: list[str]) -> tuple[list[str], list[str]]:
    """The pictures that the arguments name, folders opened, and the folders that have none."""
    pictures, empty = [], []
    for image in images:
        if Path(image).is_dir():
            inside = sorted(str(file) for file in Path(image).iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
            pictures += inside
            empty += [] if inside else [image]
        else:
            pictures.append(image)
    return list(dict.fromkeys(pictures)), empty


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
        given = ", ".join(options.images[:3])
        options.parser.error(f"{flag} {target}: is one file for {len(pictures)} pictures; give a folder ({given})")
    if target.is_file() and is_folder:
        options.parser.error(f"{flag} {target}: is a file; give a folder, or a name that ends in {', '.join(suffixes)}")
    above = target.absolute() if is_folder else target.absolute().parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        options.parser.error(f"{flag} {target}: {above.name} is a file, not a folder")
    if not os.access(above, os.W_OK):
        options.parser.error(f"{flag} {target}: nothing can be written in {above}")
    files = [target / f"{Path(picture).stem}{suffix}" for picture in pictures] if is_folder else [target]
    for i, file in enumerate(files):
        if file in files[:i]:
            first = pictures[files.index(file)]
            options.parser.error(f"{first} and {pictures[i]} would both become {file}; rename one of them")
    return files
