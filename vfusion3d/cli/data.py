"""`vfusion3d render` and `vfusion3d prompts`: the 3D data and the prompts (section 3.2)."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vfusion3d.cli.page import add_part, add_run, check_outputs, new_page, one_line, part_of, run_of
from vfusion3d.runs import layout
from vfusion3d.runs.cpus import cpus
from vfusion3d.runs.ranges import in_range

if TYPE_CHECKING:
    from vfusion3d.data.render_dataset import ObjectSource


def add_render(commands) -> None:
    page = add_run(new_page(commands, "render", run_render))
    page.add_argument(
        "--objects",
        metavar="WHICH",
        help="procedural, primitives, a folder of mesh files, or categories: common, uncommon or names, between commas",
    )
    page.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where the shards of --objects go (default: see above)"
    )
    page.add_argument(
        "--count", type=in_range("count"), help="how many objects (default: the profile's; every file of a folder)"
    )
    page.add_argument(
        "--views", type=in_range("views"), help="cameras an object (default: the profile's; 33 for the test objects)"
    )
    page.add_argument("--size", type=in_range("size"), metavar="PIXELS", help="side of a view (default: the profile's)")
    page.add_argument(
        "--workers", type=in_range("workers"), help="processes (default: the profile's, or one a CPU core)"
    )
    page.add_argument("--backend", choices=["pyvista", "blender"], default="pyvista", help="the renderer")
    page.add_argument(
        "--up",
        choices=["y", "z"],
        help="the up axis of mesh files (default: y for .glb, .gltf, .obj; z for .ply, .stl)",
    )
    page.add_argument("--time-limit", type=float, metavar="SECONDS", help="for each mesh file (default: 120)")
    page.add_argument(
        "--memory-limit", type=float, metavar="GB", help="for each mesh file, 1 for the program included (default: 4)"
    )
    page.add_argument("--overwrite", action="store_true", help="delete data that was rendered with other settings")
    add_part(page)


def run_render(options: argparse.Namespace) -> int:
    """3D objects to multi-view shards (section 3.2).

    Render objects from orbits of cameras into WebDataset shards.

    Without --objects: what the profile needs, that is the 3D training objects (common categories) in
    RUN_DIR/data/train_3d, and unseen objects (all categories) to choose recipes in RUN_DIR/data/validation and to
    test on in RUN_DIR/data/test. None of these means the same as one of another set. Where they were made of mesh
    files before, they stay as they are, with --overwrite too.
    With --objects FOLDER, a folder of mesh files: the same three sets of these files, a file in one of them only.
    NAME.txt beside a file is its caption; without one its name is.
    With --objects and -o: one set of all of these objects, in the folder given by -o.
    Mesh files (.glb .gltf .obj .ply .stl) that cannot be used, take too much time or memory or show nothing are
    left out; the last lines say which and why, and the exit code is 1 if there is one. What a file asks for and
    is not drawn (metal, refraction, a missing texture) is said there too, and in the samples' metadata.
    Interrupt it at any time: the same command goes on where it stopped.

    examples:
      vfusion3d render --profile laptop
      vfusion3d render --profile paper --objects objaverse/
      vfusion3d render --objects my_meshes/ -o shards/ --views 32 --size 128
      vfusion3d render --objects cad/ -o shards/ --up z
      vfusion3d render --objects primitives --count 1000 -o shards/
      vfusion3d render --objects common,robot --count 100 -o shards/
      vfusion3d render --profile paper --shard 3 --shards 64       (on the 4th of 64 machines)
    """
    if options.output is not None and options.objects is None:
        options.parser.error("-o is for --objects: say which objects go there")
    part = part_of(options)
    from vfusion3d.data.guard import Limits
    from vfusion3d.data.render_dataset import MeshFolder, made_of_files, render_dataset
    from vfusion3d.world.sources import DataSet, data_sets

    profile, run_dir = run_of(options)
    if options.objects is None and made_of_files(layout.objects_3d(run_dir)):
        layout.objects_3d.need(run_dir, profile=options.profile)
        print(f"{layout.objects_3d(run_dir)} was made of mesh files and stays: delete it for the profile's own objects")
        return 0
    asked = {"seconds": options.time_limit, "gigabytes": options.memory_limit}
    try:
        limits = Limits(**{name: value for name, value in asked.items() if value is not None})
    except ValueError as error:
        options.parser.error(f"--time-limit, --memory-limit: {error}")
    source = _object_source(options.objects or "common", options.up)
    meshes = source if isinstance(source, MeshFolder) else None
    if options.objects is not None and options.output is None and meshes is None:
        options.parser.error("--objects without -o takes a folder of mesh files: say where the shards of these go")
    given = [name for name in ("up", "time_limit", "memory_limit") if getattr(options, name) is not None]
    if given and meshes is None:
        options.parser.error(f"--{given[0].replace('_', '-')} is for --objects that name a folder of mesh files")

    def render(one: DataSet, folder: Path) -> Path:
        index = render_dataset(
            folder,
            one.objects,
            one.count,
            views=options.views or one.views,
            size=options.size or profile.data.render_size,
            seed=one.seed,
            workers=options.workers or cpus(profile.workers),
            shard_size=profile.data.shard_size,
            backend=options.backend,
            part=part,
            overwrite=options.overwrite,
            limits=limits,
        )
        print(index)
        return index

    first, *unseen = data_sets(profile, options.seed, None if options.output else meshes)
    if options.output:
        first, unseen = replace(first, objects=source, count=first.count if meshes is None else None), []
    folders = [options.output or one.artifact(run_dir) for one in (first, *unseen)]
    read = ("--objects", options.objects or "")
    check_outputs(options, [read], folders=[("-o" if options.output else "what is rendered", one) for one in folders])
    indices = [render(replace(first, count=options.count or first.count), folders[0])]
    indices += [render(*one) for one in zip(unseen, folders[1:])]
    return 0 if meshes is None else max(map(_say_what_became_of, indices))


def _say_what_became_of(index: Path) -> int:
    """Print how many mesh files were used, which were not, and what was left out of others; 1 if one was unusable."""
    from vfusion3d.data.shards import MultiviewShards

    if not index.exists():  # another machine writes it
        return 0
    shards = MultiviewShards(index.parent)
    known = [shards.metadata(number) for number in range(len(shards))]
    skipped, other = shards.index["skipped"], shards.index["passed_over"]
    less = [f"{sample['file']}: {', '.join(sample['left_out'])}" for sample in known if sample.get("left_out")]
    print(f"used {len(shards)} of {len(shards) + len(skipped)} mesh files")
    _print_list(f'drawn without all that the file asks for (in each sample\'s metadata, "left_out"): {len(less)}', less)
    _print_list(f'skipped (the list is "skipped" in {index}): {len(skipped)}', list(skipped.values()))
    _print_list(f"passed over, in formats that are not read (export them as GLB): {len(other)}", other)
    if not skipped:
        return 0
    first = next(iter(skipped.values()))
    more = f", and {len(skipped) - 1} more: see above" if len(skipped) > 1 else ""
    print(f"vfusion3d render: left out: {one_line(first)}{more}", file=sys.stderr)
    return 1


def _print_list(title: str, lines: list[str], most: int = 20) -> None:
    if lines:
        rest = [f"and {len(lines) - most} more"] if len(lines) > most else []
        print(title, *lines[:most], *rest, sep="\n  ")


def _object_source(which: str, up: str | None) -> "ObjectSource":
    """The source that `--objects` names: a word of ours, else a folder that is there, else categories."""
    from vfusion3d.data.render_dataset import MeshFolder
    from vfusion3d.world.catalogue import CATEGORY_NAMES, COMMON, UNCOMMON
    from vfusion3d.world.sources import ProceduralObjects, RandomPrimitives

    if which == "primitives":
        return RandomPrimitives()
    if which == "procedural":
        return ProceduralObjects()
    halves = {"common": COMMON, "uncommon": UNCOMMON}
    if which not in halves and Path(which).is_dir():
        return MeshFolder(which, up)
    names = [name for word in which.split(",") for name in halves.get(word, (word,))]
    if unknown := [name for name in names if name not in CATEGORY_NAMES]:
        known = ", ".join(["procedural", "primitives", *halves, *CATEGORY_NAMES])
        raise ValueError(f"--objects {which}: no such folder, and {unknown[0]!r} is none of {known}")
    return ProceduralObjects(tuple(names))


def add_prompts(commands) -> None:
    page = add_run(new_page(commands, "prompts", run_prompts))
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
        help="such a file of the prompts to evaluate with (default: those of an earlier call, or the bundled ones)",
    )
    page.add_argument("--overwrite", action="store_true", help="delete prompts that were collected with other settings")


def run_prompts(options: argparse.Namespace) -> int:
    """Captions of the web and of 3D objects to prompts (section 3.2).

    Collect as many prompts as the profile wants into RUN_DIR/data/prompts/prompts.parquet: captions of the 3D
    objects in RUN_DIR/data/train_3d (made by `vfusion3d render`), then captions of a corpus, cleaned, without
    duplicates, and only those that describe a single object. The table has a row for every caption that was
    read, with the reason where it was dropped. No prompt to train on means the same as an evaluation prompt or
    as the caption of an unseen object in RUN_DIR/data/test or validation: these are the table's split `eval`. With
    --eval-prompts, notebook 09 and `vfusion3d experiment` evaluate with the prompts of that file.
    A corpus of any size is read bit by bit, no further than needed.
    Interrupt it at any time: the same command goes on where it stopped.

    examples:
      vfusion3d prompts --profile laptop
      vfusion3d prompts --profile gpu --corpus captions.parquet
      vfusion3d prompts --profile paper --corpus laion.txt.gz --eval-prompts mvdream.txt
    """
    from vfusion3d.video.corpus import check_corpus
    from vfusion3d.video.prompts import collect_prompts, held_out_captions, read_prompts
    from vfusion3d.world.web_captions import WEB_CAPTIONS

    profile, run_dir = run_of(options)
    own = [("--corpus", options.corpus or ""), ("--eval-prompts", options.eval_prompts or "")]
    check_outputs(options, own, folders=[("the folder of the prompts", layout.prompt_table(run_dir))])
    corpus = options.corpus or WEB_CAPTIONS
    check_corpus(corpus)
    objects = layout.objects_3d.need(run_dir, profile=options.profile)
    table = collect_prompts(
        profile,
        layout.prompt_table(run_dir),
        held_out=held_out_captions(profile, run_dir, options.eval_prompts),
        objects=objects,
        corpus=corpus,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    found = len(read_prompts(table))
    wanted = profile.data.prompts
    print(f"{found:,} of {wanted:,} prompts" + (f": {corpus} has no more" if found < wanted else ""))
    print(table)
    return 0
