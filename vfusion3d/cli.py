"""The `vfusion3d` command: thin faces of the package's heavy functions.

Each subcommand is one `add_...` (its page of help) and one `run_...` (a few calls). Heavy imports wait until a command
runs, so help is instant. What a person can get wrong ends in one line on stderr and exit code 1 (2 for a command line
that makes no sense), never in a stack trace.
"""

import argparse
import math
import os
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path

from vfusion3d.layout import (
    curation_models,
    finetuned_model,
    pretrained_model,
    prompt_table,
    synthetic_data,
    synthetic_labels,
    test_data,
    training_data,
    user_study,
    video_model,
)
from vfusion3d.settings import write_whole

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
MESH_SUFFIXES = (".glb", ".obj", ".ply")
VIDEO_SUFFIXES = (".mp4", ".gif")
STRIPS, LOOKS = 4, 5  # while the video model learns: of how many objects there are strips, and how often
BACKGROUNDS = ("auto", "alpha", "plain", "grabcut", "rembg", "keep")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 where something failed, 130 interrupted (2: wrong command line)."""
    options = build_parser().parse_args(arguments)
    warnings.filterwarnings("ignore", category=UserWarning, module="huggingface_hub")  # nothing a user can act on
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("vfusion3d: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"vfusion3d {options.command}: {one_line(error)}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """All commands with their help."""
    parser = argparse.ArgumentParser(
        prog="vfusion3d",
        description="One image to a 3D asset, and the paper's pipeline that teaches it. "
        "`vfusion3d COMMAND --help` tells more, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"vfusion3d {version('vfusion3d')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        *(add_reconstruct, add_render, add_prompts, add_finetune_video, add_generate, add_curate),
        *(add_train, add_evaluate, add_study, add_experiment),
    ):
        add(commands)
    return parser


def one_line(error: Exception) -> str:
    """An exception's message without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _page(commands, name: str, run, summary: str, description: str, example: str) -> argparse.ArgumentParser:
    page = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
        formatter_class=_HelpFormat,
    )
    page.set_defaults(run=run, parser=page)
    return page


class _HelpFormat(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of descriptions and examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default is None else super()._get_help_string(action)


# ------------------------------------------------------------------------------------------------------ reconstruct


def add_reconstruct(commands) -> None:
    page = _page(
        commands,
        "reconstruct",
        run_reconstruct,
        "pictures to 3D meshes (and turntable videos)",
        "Reconstruct the object on each picture as a mesh with vertex colours.\n\n"
        "The background is removed and the object centred first: one object, all of it visible, works best.\n"
        "A picture that cannot be used is reported in one line; the others go on, and the exit code is 1.\n"
        "GLB files are y-up with the photographed side to the front; OBJ and PLY are z-up with that side towards +x.",
        """
vfusion3d reconstruct photo.jpg -o photo.glb --video photo.mp4
vfusion3d reconstruct photos/ more.png -o meshes/ --video videos/
vfusion3d reconstruct photo.jpg -o photo.glb --weights facebook/vfusion3d
""",
    )
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
    pictures, empty = _pictures(options.images)
    several = len(pictures) > 1 or any(Path(image).is_dir() for image in options.images)
    meshes = _outputs(
        options, "-o", getattr(options, "output", Path()), pictures, several, MESH_SUFFIXES, f".{options.format}"
    )
    videos = [None] * len(pictures)
    if options.video is not None:
        videos = _outputs(options, "--video", options.video, pictures, several, VIDEO_SUFFIXES, ".mp4")
    cutouts = [None] * len(pictures)
    if options.cutout is not None:
        cutouts = _outputs(options, "--cutout", options.cutout, pictures, several, (".png",), ".png")
    if not 8 <= options.resolution <= 1024:
        options.parser.error(f"--resolution {options.resolution}: must be between 8 and 1024")
    if options.elevation is not None and not abs(options.elevation) < 90:
        options.parser.error(f"--elevation {options.elevation:g}: must be between -90 and 90 degrees")
    if not 16 <= options.video_size <= 2048:
        options.parser.error(f"--video-size {options.video_size}: must be between 16 and 2048")

    from vfusion3d.progress import tqdm

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
            named = message if message.startswith(str(picture)) else f"{picture}: {message}"
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
    target: Path,
    pictures: list[str],
    several: bool,
    suffixes: tuple[str, ...],
    suffix: str,
) -> list[Path]:
    """Where the result for each picture goes, checked before any work begins."""
    is_folder = target.is_dir() or not target.suffix
    if not is_folder and target.suffix.lower() not in suffixes:
        options.parser.error(f"{flag} {target}: must end in {', '.join(suffixes)}, or be a folder")
    if not is_folder and several:
        options.parser.error(f"{flag} {target}: is one file for {len(pictures)} pictures; give a folder")
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


# ------------------------------------------------------------------------- the paper's pipeline: what commands share


def _add_run(page: argparse.ArgumentParser) -> None:
    page.add_argument("--profile", default="laptop", help="smoke, laptop, gpu, paper, or a .yaml file of your own")
    page.add_argument("--run-dir", type=Path, metavar="FOLDER", help="where a run's data lives (default: runs/PROFILE)")
    page.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes on the same machine")


def _run(options: argparse.Namespace):
    """The profile and the run's folder."""
    from vfusion3d.profiles import load_profile

    profile = load_profile(options.profile)
    return profile, options.run_dir or Path("runs") / profile.name


# ----------------------------------------------------------------------------------------------------------- render


def add_render(commands) -> None:
    page = _page(
        commands,
        "render",
        run_render,
        "3D objects to multi-view shards (section 3.2)",
        "Render objects from orbits of cameras into WebDataset shards.\n\n"
        "Without --objects: what the profile needs, that is the 3D training objects (common categories) in\n"
        "RUN_DIR/data/train_3d and the unseen test objects (all categories) in RUN_DIR/data/test.\n"
        "With --objects: your own set, in the folder given by -o.\n"
        "Interrupt it at any time: the same command goes on where it stopped.",
        """
vfusion3d render --profile laptop
vfusion3d render --objects my_meshes/ -o shards/ --views 32 --size 128
vfusion3d render --objects primitives --count 1000 -o shards/
vfusion3d render --profile paper --shard 3 --shards 64       (on the 4th of 64 machines)
""",
    )
    _add_run(page)
    page.add_argument(
        "--objects", metavar="WHICH", help="procedural, common, uncommon, primitives, or a folder of mesh files"
    )
    page.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where the shards of --objects go")
    page.add_argument("--count", type=int, help="how many objects (default: the profile's; every file of a folder)")
    page.add_argument("--views", type=int, help="cameras an object (default: the profile's; 33 for the test objects)")
    page.add_argument("--size", type=int, metavar="PIXELS", help="side of a view (default: the profile's)")
    page.add_argument("--workers", type=int, help="processes (default: the profile's, or one a CPU core)")
    page.add_argument("--backend", choices=["pyvista", "blender"], default="pyvista", help="the renderer")
    page.add_argument("--overwrite", action="store_true", help="delete data that was rendered with other settings")
    page.add_argument("--shard", type=int, default=0, metavar="K", help="which part of the work this is, from 0")
    page.add_argument("--shards", type=int, default=1, metavar="N", help="in how many parts the work is divided")


def run_render(options: argparse.Namespace) -> int:
    if (options.objects is None) != (options.output is None):
        options.parser.error("--objects and -o belong together: which objects, and where their shards go")
    if not 0 <= options.shard < options.shards:
        options.parser.error(f"--shard {options.shard} --shards {options.shards}: K must be from 0 to N - 1")
    from vfusion3d.data.render_dataset import render_dataset

    profile, run_dir = _run(options)
    common = {
        "size": options.size or profile.data.render_size,
        "workers": options.workers or profile.workers or os.cpu_count() or 1,
        "backend": options.backend,
        "part": (options.shard, options.shards),
        "overwrite": options.overwrite,
    }
    views = options.views or profile.data.views_3d
    if options.objects is not None:
        source, count = _object_source(options.objects), options.count
        if count is None and not hasattr(source, "__len__"):
            count = profile.data.objects_3d
        print(render_dataset(options.output, source, count, views=views, seed=options.seed, **common))
        return 0
    from vfusion3d.data.unseen import UNSEEN_SEED, UnseenObjects
    from vfusion3d.evaluation.protocol import TEST_VIEWS

    count = options.count or profile.data.objects_3d
    folder = training_data(run_dir)
    print(render_dataset(folder, _object_source("common"), count, views=views, seed=options.seed, **common))
    unseen = {"views": options.views or TEST_VIEWS, "seed": options.seed + UNSEEN_SEED}
    print(render_dataset(test_data(run_dir), UnseenObjects(), profile.data.test_objects, **unseen, **common))
    return 0


def _object_source(which: str):
    from vfusion3d.data.render_dataset import MeshFolder, ProceduralObjects, RandomPrimitives

    if which == "primitives":
        return RandomPrimitives()
    if which in ("procedural", "common", "uncommon"):
        from vfusion3d.data import objects

        names = {"procedural": None, "common": objects.COMMON, "uncommon": objects.UNCOMMON}[which]
        return ProceduralObjects(names)
    if not Path(which).is_dir():
        raise ValueError(f"--objects {which}: no such folder, and none of procedural, common, uncommon, primitives")
    return MeshFolder(which)


# ---------------------------------------------------------------------------------------------------------- prompts


def add_prompts(commands) -> None:
    page = _page(
        commands,
        "prompts",
        run_prompts,
        "captions of the web and of 3D objects to prompts (section 3.2)",
        "Collect as many prompts as the profile wants into RUN_DIR/data/prompts/prompts.parquet: captions of the 3D\n"
        "objects in RUN_DIR/data/train_3d (made by `vfusion3d render`), then captions of a corpus, cleaned, without\n"
        "duplicates, and only those that describe a single object. The table has a row for every caption that was\n"
        "read, with the reason where it was dropped. No prompt to train on means the same as an evaluation prompt or\n"
        "as the caption of an unseen object in RUN_DIR/data/test: these are the table's split `eval`.\n"
        "A corpus of any size is read bit by bit, no further than needed.\n"
        "Interrupt it at any time: the same command goes on where it stopped.",
        """
vfusion3d prompts --profile laptop
vfusion3d prompts --profile gpu --corpus captions.parquet
vfusion3d prompts --profile paper --corpus laion.txt.gz --eval-prompts mvdream.txt
""",
    )
    _add_run(page)
    page.add_argument(
        "--corpus",
        type=Path,
        metavar="FILE",
        help="captions: .txt or .txt.gz, one a line, or .parquet with a column `caption` (default: the bundled ones)",
    )
    page.add_argument(
        "--eval-prompts",
        type=Path,
        metavar="FILE",
        help="such a file of the prompts to evaluate with (default: the bundled ones, as many as the profile says)",
    )
    page.add_argument("--overwrite", action="store_true", help="delete prompts that were collected with other settings")


def run_prompts(options: argparse.Namespace) -> int:
    from vfusion3d.data.eval_prompts import eval_prompts
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.video.corpus import WEB_CAPTIONS, check_corpus, read_captions
    from vfusion3d.video.prompts import collect_prompts, read_prompts

    profile, run_dir = _run(options)
    corpus = options.corpus or WEB_CAPTIONS
    check_corpus(corpus)
    chosen = eval_prompts(profile.data.eval_prompts)
    if options.eval_prompts is not None:
        check_corpus(options.eval_prompts)
        chosen = [caption for caption in read_captions(options.eval_prompts) if caption.strip()]
    for data in (training_data(run_dir), test_data(run_dir)):
        _require(data / "index.json", _again(options, "render"))
    unseen = MultiviewShards(test_data(run_dir))
    table = collect_prompts(
        profile,
        prompt_table(run_dir),
        held_out={"evaluation prompts": chosen, "unseen objects": [unseen.caption(i) for i in range(len(unseen))]},
        objects=training_data(run_dir),
        corpus=corpus,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    found, wanted = len(read_prompts(table)), profile.data.prompts
    print(f"{found:,} of {wanted:,} prompts" + (f": {corpus} has no more" if found < wanted else ""))
    print(table)
    return 0


# ------------------------------------------------------------------------------------------------- the video model


def add_finetune_video(commands) -> None:
    page = _page(
        commands,
        "finetune-video",
        run_finetune_video,
        "make the video model turn objects (section 3.2)",
        "Fine-tune the profile's video model on the orbits in RUN_DIR/data/train_3d (made by `vfusion3d render`).\n"
        "Only its temporal layers learn. Checkpoints and the loss log go to RUN_DIR/video_model, the finished model\n"
        "to the folder model in it. Where RUN_DIR/data/test is there, film strips of its first objects are kept in\n"
        "the folder strips while the model learns.\n"
        "Interrupt it at any time: the same command goes on where it stopped.",
        """
vfusion3d finetune-video --profile laptop
vfusion3d finetune-video --profile laptop --objects 10 -o runs/laptop/tenth      (a row of Table 3)
accelerate launch --num_processes 8 -m vfusion3d.cli finetune-video --profile paper
""",
    )
    _add_run(page)
    page.add_argument("--objects", type=int, metavar="N", help="learn from the first N objects only (default: all)")
    page.add_argument("--weights", metavar="NAME", help="what to start from (default: what the profile says)")
    page.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="of the run (default: RUN_DIR/video_model)")
    page.add_argument("--overwrite", action="store_true", help="delete a run that was made with other settings")


def run_finetune_video(options: argparse.Namespace) -> int:
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.video.finetune import finetune_video_model
    from vfusion3d.video.strips import first_frames, keep_strips

    profile, run_dir = _run(options)
    data, folder = training_data(run_dir), options.output or video_model(run_dir)
    _require(data / "index.json", _again(options, "render"))
    show = None
    if (test_data(run_dir) / "index.json").exists():
        first = first_frames(MultiviewShards(test_data(run_dir)), STRIPS, profile.video.size)
        show = keep_strips(folder / "strips", first, profile.video, options.seed)
    finetune_video_model(
        _with_video_model(profile, options.weights),
        data,
        folder,
        objects=options.objects,
        seed=options.seed,
        show=show,
        show_every=max(1, profile.video.steps // LOOKS),
        overwrite=options.overwrite,
    )
    print(folder / "model")
    return 0


def _with_video_model(profile, weights: str | None):
    """The profile with another video model in it, where one is given."""
    from dataclasses import replace

    foundations = replace(profile.foundations, image_to_video=weights or profile.foundations.image_to_video)
    return replace(profile, foundations=foundations)


def add_generate(commands) -> None:
    page = _page(
        commands,
        "generate",
        run_generate,
        "prompts to synthetic multi-view videos (section 3.2)",
        "Draw a picture for each prompt and turn it into a 16-view video with the fine-tuned video model, into\n"
        "WebDataset shards in RUN_DIR/data/synthetic. Reads RUN_DIR/data/prompts (made by `vfusion3d prompts`) and\n"
        "RUN_DIR/video_model/model (by `vfusion3d finetune-video`).\n"
        "A shard is a unit of work: any machine can make it, with the same result.\n"
        "Interrupt it at any time: the same command goes on where it stopped, and makes nothing twice.",
        """
vfusion3d generate --profile laptop
vfusion3d generate --profile laptop --weights mini -o runs/laptop/before      (the model before fine-tuning)
vfusion3d generate --profile paper --shard 3 --shards 64                      (on the 4th of 64 machines)
""",
    )
    _add_run(page)
    page.add_argument(
        "--weights",
        metavar="NAME",
        help="the video model: a folder, a hub name, or mini (default: RUN_DIR/video_model/model)",
    )
    page.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="(default: RUN_DIR/data/synthetic)")
    page.add_argument("--overwrite", action="store_true", help="delete videos that were made with other settings")
    page.add_argument("--shard", type=int, default=0, metavar="K", help="which part of the work this is, from 0")
    page.add_argument("--shards", type=int, default=1, metavar="N", help="in how many parts the work is divided")


def run_generate(options: argparse.Namespace) -> int:
    if not 0 <= options.shard < options.shards:
        options.parser.error(f"--shard {options.shard} --shards {options.shards}: K must be from 0 to N - 1")
    from vfusion3d.foundations.image_to_video import load_video_model
    from vfusion3d.foundations.loading import dtype_of
    from vfusion3d.foundations.text_to_image import text_to_image
    from vfusion3d.video.generate import generate_videos
    from vfusion3d.video.prompts import PROMPTS, read_prompts

    profile, run_dir = _run(options)
    table = _require(prompt_table(run_dir) / PROMPTS, _again(options, "prompts"))
    weights = options.weights or str(_require(video_model(run_dir) / "model", _again(options, "finetune-video")))
    model = load_video_model(_with_video_model(profile, weights), dtype=dtype_of(profile))
    prompts = read_prompts(table)[: profile.data.videos]
    index = generate_videos(
        options.output or synthetic_data(run_dir),
        prompts,
        text_to_image(profile),
        model,
        profile.video,
        drawn_by=profile.foundations.text_to_image,
        seed=options.seed,
        part=(options.shard, options.shards),
        overwrite=options.overwrite,
    )
    print(index if index.exists() else f"{index.parent}: the other parts are still to be made")
    return 0


# ---------------------------------------------------------------------------------------------------------- curate


def add_curate(commands) -> None:
    page = _page(
        commands,
        "curate",
        run_curate,
        "score, elevation and masks of the synthetic videos (section 3.2)",
        "Train the quality filter on judged videos and the elevation network on the 3D data in RUN_DIR/data/train_3d,\n"
        "and label every video in RUN_DIR/data/synthetic (made by `vfusion3d generate`) into RUN_DIR/data/labels.\n"
        "No video is removed: whoever reads the labels chooses from which score on a video is kept.\n"
        "The models and the judgements go to RUN_DIR/curation. Without --annotations the simulated annotator judges\n"
        "as many videos as the profile says; it can where the procedural world drew the pictures. Judgements of your\n"
        "own are made in notebook 05, video by video.\n"
        "Interrupt it at any time: the same command goes on where it stopped.",
        """
vfusion3d curate --profile laptop
vfusion3d curate --profile laptop --annotations mine.csv
vfusion3d curate --profile paper --annotations mine.csv --shard 3 --shards 64      (on the 4th of 64 machines)
""",
    )
    _add_run(page)
    page.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="judgements: a .csv file with the columns key, good (yes or no), annotator, videos",
    )
    page.add_argument("--overwrite", action="store_true", help="delete labels that were made with other settings")
    page.add_argument("--shard", type=int, default=0, metavar="K", help="which part of the work this is, from 0")
    page.add_argument("--shards", type=int, default=1, metavar="N", help="in how many parts the work is divided")


def run_curate(options: argparse.Namespace) -> int:
    if not 0 <= options.shard < options.shards:
        options.parser.error(f"--shard {options.shard} --shards {options.shards}: K must be from 0 to N - 1")
    from vfusion3d.curation.annotations import ANNOTATIONS, Annotations
    from vfusion3d.curation.annotator import annotate
    from vfusion3d.curation.curate import new_labeller, videos_to_judge
    from vfusion3d.curation.labels import label_videos
    from vfusion3d.data.shards import MultiviewShards, Shards, VideoShards
    from vfusion3d.foundations.perceptual import perceptual_distance

    profile, run_dir = _run(options)
    _require(training_data(run_dir) / "index.json", _again(options, "render"))
    videos = VideoShards(_require(synthetic_data(run_dir) / "index.json", _again(options, "generate")).parent)
    models = curation_models(run_dir)
    if options.annotations is not None:
        if not options.annotations.is_file():
            raise FileNotFoundError(f"--annotations {options.annotations}: no such file; notebook 05 makes one")
        annotations = Annotations(options.annotations, videos)
    else:
        annotations = Annotations(models / ANNOTATIONS, videos, set_aside=options.overwrite)
        places = videos_to_judge(videos, profile.data.labelled_videos, options.seed)
        annotate(annotations, videos, places, perceptual_distance(profile))
    shards = MultiviewShards(training_data(run_dir))
    labeller, settings = new_labeller(profile, models, videos, annotations, shards, options.seed)
    index = label_videos(
        videos.folder,
        synthetic_labels(run_dir),
        labeller,
        settings=settings,
        part=(options.shard, options.shards),
        overwrite=options.overwrite,
    )
    if not index.exists():
        print(f"{index.parent}: the other parts are still to be made")
        return 0
    scores = [facts["score"] for facts in Shards(index.parent).index["labels"]]
    print(f"the filter keeps {sum(score >= 0 for score in scores):,} of {len(scores):,} videos")
    print(index)
    return 0


# ------------------------------------------------------------------------------------------------ train and evaluate


def add_train(commands) -> None:
    page = _page(
        commands,
        "train",
        run_train,
        "train VFusion3D on synthetic videos, fine-tune it on 3D data (section 3.3)",
        "Train VFusion3D by the profile's recipe on the synthetic videos in RUN_DIR/data/synthetic that the filter\n"
        "keeps, with the elevations and masks in RUN_DIR/data/labels. With --finetune: train what came out further,\n"
        "on the 3D data in RUN_DIR/data/train_3d (made by `vfusion3d render`) by the profile's recipe of fine-tuning.\n"
        "With --data: learn from rendered shards of your own in place of either.\n"
        "Checkpoints and the loss log go to RUN_DIR/vfusion3d (with --finetune RUN_DIR/vfusion3d_finetuned), the\n"
        "finished weights to the folder model in it.\n"
        "Interrupt it at any time: the same command goes on where it stopped, to the same loss curve.",
        """
vfusion3d train --profile laptop
vfusion3d train --profile laptop --finetune
vfusion3d train --profile gpu --data shards/ -o runs/mine
accelerate launch --num_processes 8 -m vfusion3d.cli train --profile paper
""",
    )
    _add_run(page)
    page.add_argument("--finetune", action="store_true", help="fine-tune this run's trained model on the 3D data")
    page.add_argument("--data", type=Path, metavar="FOLDER", help="rendered shards to train on")
    page.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="of the run (default: see above)")
    page.add_argument(
        "--weights",
        metavar="NAME",
        help="what to start from (default: what the profile says, with --finetune the trained model)",
    )
    page.add_argument("--overwrite", action="store_true", help="delete a run that was made with other settings")


def run_train(options: argparse.Namespace) -> int:
    from vfusion3d import VFusion3D
    from vfusion3d.training.train import train_vfusion3d

    profile, run_dir = _run(options)
    recipe, weights = profile.training, options.weights
    if options.finetune:
        recipe = profile.finetuning
        if recipe is None:
            raise ValueError(
                f"the profile {profile.name} has no `finetuning`: add that recipe to a profile of your own"
            )
        weights = weights or _require(pretrained_model(run_dir) / "model", _again(options, "train"))
    folder = options.output or (finetuned_model if options.finetune else pretrained_model)(run_dir)
    data = _training_data(options, run_dir)
    model = VFusion3D.from_pretrained(weights) if weights else None
    how = {"seed": options.seed, "overwrite": options.overwrite}
    train_vfusion3d(profile, data, folder, recipe=recipe, model=model, **how)
    print(folder / "model")
    return 0


def _training_data(options: argparse.Namespace, run_dir: Path):
    """What `train` learns from: a folder of rendered shards, or the labelled synthetic videos."""
    if options.data or options.finetune:
        data = options.data or training_data(run_dir)
        _require(data / "index.json", _again(options, "render"))
        return data
    from vfusion3d.curation.labels import SyntheticShards

    _require(synthetic_data(run_dir) / "index.json", _again(options, "generate"))
    _require(synthetic_labels(run_dir) / "index.json", _again(options, "curate"))
    data = SyntheticShards(synthetic_data(run_dir), synthetic_labels(run_dir))
    print(f"the filter keeps {len(data):,} of {len(data.facts):,} videos")
    return data


def add_evaluate(commands) -> None:
    page = _page(
        commands,
        "evaluate",
        run_evaluate,
        "compare novel views of unseen objects with the truth (Table 5's protocol)",
        "One view in, 32 novel views out: PSNR, SSIM and LPIPS against the true renders, CLIP similarity to caption\n"
        "and input, beside simple baselines (the nearest training object where RUN_DIR/data/train_3d is there).\n"
        "Reads RUN_DIR/data/test (made by `vfusion3d render`), and the newer of this run's models: of\n"
        "RUN_DIR/vfusion3d (by `vfusion3d train`) and RUN_DIR/vfusion3d_finetuned (by `vfusion3d train --finetune`).\n"
        "Prints the means and writes one row per object and method to the file given by -o.",
        """
vfusion3d evaluate --profile laptop
vfusion3d evaluate --weights mini --data shards/ -o mini.csv
""",
    )
    _add_run(page)
    page.add_argument("--weights", metavar="NAME", help="what to evaluate (default: the newer model of this run)")
    page.add_argument("--data", type=Path, metavar="FOLDER", help="shards of objects (default: RUN_DIR/data/test)")
    page.add_argument("--size", type=int, metavar="PIXELS", help="of compared views (default: the model's input)")
    page.add_argument("-o", "--output", type=Path, metavar="CSV", help="(default: RUN_DIR/evaluation_3d.csv)")


def run_evaluate(options: argparse.Namespace) -> int:
    import numpy as np

    from vfusion3d import VFusion3D
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.evaluation.baselines import build_index, repeat_input, retrieval, white
    from vfusion3d.evaluation.protocol import evaluate_3d, model_predictor
    from vfusion3d.evaluation.tables import mean_over_objects
    from vfusion3d.foundations.clip import clip
    from vfusion3d.foundations.image_features import image_features
    from vfusion3d.foundations.loading import device_of
    from vfusion3d.foundations.perceptual import perceptual_distance

    profile, run_dir = _run(options)
    data = options.data or test_data(run_dir)
    _require(data / "index.json", _again(options, "render"))
    weights = options.weights or _newest_model(options, run_dir)
    device = device_of(profile)
    model = VFusion3D.from_pretrained(weights).to(device).eval()
    shards = MultiviewShards(data)
    size = options.size or min(model.config.image_size, shards.read(0, views=[0]).rgba.shape[-1])
    methods = {"VFusion3D": model_predictor(model), "input view repeated": repeat_input, "white image": white}
    if (training_data(run_dir) / "index.json").exists():
        features = image_features(profile)
        seen = build_index(MultiviewShards(training_data(run_dir)), features, device=device)
        methods["nearest training object"] = retrieval(seen, features)
    table = evaluate_3d(
        methods,
        shards,
        size=size,
        perceptual=perceptual_distance(profile).to(device),
        clip=clip(profile),
        generator=np.random.default_rng(options.seed),
        device=device,
    )
    output = options.output or run_dir / "evaluation_3d.csv"
    write_whole(output, partial(table.to_csv, index=False))
    print(weights)
    print(mean_over_objects(table).to_string(float_format="{:.4f}".format))
    print(output)
    return 0


# ------------------------------------------------------------------------------------------------------- experiment


def add_experiment(commands) -> None:
    page = _page(
        commands,
        "experiment",
        run_experiment,
        "train and evaluate the variants of Tables 3 to 6 and Figure 7 (sections 4.3 and 4.4)",
        "Make one or more variants of the pipeline, or all that a table needs: their data, their training and their\n"
        "scores, in RUN_DIR/experiments/NAME/seed-N. What notebooks 03, 06 and 07 or another variant trained with the\n"
        "same settings is only evaluated. Needs the results of notebooks 01 to 05.\n"
        "Interrupt it at any time: the same command goes on where it stopped.",
        """
vfusion3d experiment --list
vfusion3d experiment table_4 --profile laptop
vfusion3d experiment finetuned_10k finetuned_30k --seed 1 --seeds 1
vfusion3d experiment figure_7 --profile paper --plan
""",
    )
    _add_run(page)
    page.add_argument("names", nargs="*", metavar="NAME", help="variants, or tables (table_3 to table_6, figure_7)")
    page.add_argument("--seeds", type=int, help="how many, from --seed on (default: what the profile gives the table)")
    page.add_argument("--list", action="store_true", help="show the tables and their variants, and do nothing")
    page.add_argument("--plan", action="store_true", help="show what would be trained, and do nothing")
    page.add_argument("--overwrite", action="store_true", help="delete what was made with other settings")


def run_experiment(options: argparse.Namespace) -> int:
    from vfusion3d.experiments.variants import load_experiments

    experiments = load_experiments()
    if options.list:
        for table, rows in experiments.tables.items():
            print(table, *(f"  {row:24} {name}" for row, name in rows.items()), sep="\n")
        return 0
    if not options.names:
        options.parser.error("name a variant or a table; --list shows what there is")
    if options.seeds is not None and options.seeds < 1:
        options.parser.error(f"--seeds {options.seeds}: must be at least 1")
    from vfusion3d.experiments.run import planned_trainings, run_variant

    profile, run_dir = _run(options)
    runs = experiments.runs(profile, options.names, options.seed, options.seeds)
    if options.plan:
        print(planned_trainings(profile, options.names, options.seed, options.seeds).to_string(index=False))
        return 0
    for number, (name, seed) in enumerate(runs, 1):
        start = time.perf_counter()
        print(f"{number} of {len(runs)}: {name}, seed {seed}", flush=True)
        result = run_variant(profile, run_dir, name, seed, experiments=experiments, overwrite=options.overwrite)
        means = result.scores[["ssim", "lpips", "clip_text", "clip_image"]].mean()
        print(*(f"{metric} {value:.4f}" for metric, value in means.items()), sep="  ", end="  ")
        print(f"({time.perf_counter() - start:.0f} s; model: {result.model})", flush=True)
    return 0


def _newest_model(options: argparse.Namespace, run_dir: Path) -> Path:
    """The fine-tuned model of the run, unless the one it began with was trained anew since."""
    first, finetuned = pretrained_model(run_dir) / "model", finetuned_model(run_dir) / "model"
    if finetuned.exists() and not (first.exists() and first.stat().st_mtime > finetuned.stat().st_mtime):
        return finetuned
    return _require(first, _again(options, "train"))


def add_study(commands) -> None:
    page = _page(
        commands,
        "study",
        run_study,
        "the user study as a page in your browser (section 4.2, Figure 5)",
        "Serve a page that shows two turning objects at a time, one by VFusion3D and one by another method, and asks\n"
        "which looks better, or which is truer to the input picture. Open the printed address, and choose.\n"
        "Reads RUN_DIR/items and RUN_DIR/views (made by notebooks 08 and 09), and what other programs made of these\n"
        "items: RUN_DIR/methods/TASK/METHOD/KEY.mp4 or KEY/*.png. Every answer is written to\n"
        "RUN_DIR/user_study/RATER.csv at once: stop the server or close the browser at any time, the same command\n"
        "goes on where the rater stopped.\n"
        "With five such files of five people, notebook 10 draws Figure 5 from them.",
        """
vfusion3d study --rater anna
vfusion3d study --profile gpu --port 8000 --against OpenLRM LGM
vfusion3d study --host 0.0.0.0                   (others in your network can take part: the page asks for names)
""",
    )
    _add_run(page)
    page.add_argument("--rater", metavar="NAME", help="who answers (default: the page asks)")
    page.add_argument("--against", nargs="+", metavar="METHOD", help="(default: every method that is there)")
    page.add_argument("--port", type=int, default=8765, help="of the address")
    page.add_argument("--host", default="127.0.0.1", help="who can open the page: by default only this machine")


def run_study(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    from vfusion3d.evaluation.study_page import Study, study_server
    from vfusion3d.evaluation.user_study import checked_rater, load_items

    _, run_dir = _run(options)
    query = "?" + urlencode({"rater": checked_rater(options.rater)}) if options.rater is not None else ""
    study = Study(load_items(run_dir, options.against), user_study(run_dir), options.seed)
    with study_server(study, options.port, options.host) as server:
        print(f"http://{options.host}:{server.server_port}/{query}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"\nanswers are in {study.folder}; the same command goes on")
    return 0


def _again(options: argparse.Namespace, command: str) -> str:
    """Another command for the same run, as a person would type it."""
    run_dir = f" --run-dir {options.run_dir}" if options.run_dir else ""
    return f"vfusion3d {command} --profile {options.profile}{run_dir}"


def _require(path: Path, made_by: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist yet; `{made_by}` makes it")
    return path


if __name__ == "__main__":
    sys.exit(main())
