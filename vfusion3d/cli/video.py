"""`vfusion3d finetune-video`, `generate` and `curate`: the synthetic videos and their labels (section 3.2)."""

import argparse
from dataclasses import replace
from pathlib import Path

from vfusion3d.cli.page import add_part, add_run, check_outputs, new_page, part_of, run_of
from vfusion3d.runs import layout
from vfusion3d.runs.ranges import in_range

STRIPS = 4  # objects of which there are strips while the video model learns
LOOKS = 5  # how often strips are made


def add_finetune_video(commands) -> None:
    page = add_run(new_page(commands, "finetune-video", run_finetune_video))
    page.add_argument(
        "--objects", type=in_range("objects"), metavar="N", help="learn from the first N objects only (default: all)"
    )
    page.add_argument("--weights", metavar="NAME", help="what to start from (default: what the profile says)")
    page.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="of the run (default: RUN_DIR/video_model)")
    page.add_argument("--overwrite", action="store_true", help="delete a run that was made with other settings")


def run_finetune_video(options: argparse.Namespace) -> int:
    """Make the video model turn objects (section 3.2).

    Fine-tune the profile's video model on the orbits in RUN_DIR/data/train_3d (made by `vfusion3d render`).
    Only its temporal layers learn. Checkpoints and the loss log go to RUN_DIR/video_model, the finished model
    to the folder model in it. Where RUN_DIR/data/test is there, film strips of its first objects are kept in
    the folder strips while the model learns.
    Interrupt it at any time: the same command goes on where it stopped.

    examples:
      vfusion3d finetune-video --profile laptop
      vfusion3d finetune-video --profile laptop --objects 10 -o runs/laptop/tenth      (a row of Table 3)
      torchrun --nproc_per_node 8 -m vfusion3d.cli finetune-video --profile paper
    """
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.video.finetune import finetune_video_model
    from vfusion3d.video.strips import first_frames, keep_strips

    profile, run_dir = run_of(options)
    data = layout.objects_3d.need(run_dir, profile=options.profile)
    folder = options.output or layout.video_model(run_dir)
    check_outputs(options, [("the 3D data", data), ("--weights", options.weights or "")], folders=[("-o", folder)])
    show = None
    if not layout.test_data.missing(run_dir):
        first = first_frames(MultiviewShards(layout.test_data(run_dir)), STRIPS, profile.video.size)
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
    foundations = replace(profile.foundations, image_to_video=weights or profile.foundations.image_to_video)
    return replace(profile, foundations=foundations)


def add_generate(commands) -> None:
    page = add_run(new_page(commands, "generate", run_generate))
    page.add_argument(
        "--weights",
        metavar="NAME",
        help="the video model: a folder, a hub name, or mini (default: RUN_DIR/video_model/model)",
    )
    page.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="(default: RUN_DIR/data/synthetic)")
    page.add_argument("--overwrite", action="store_true", help="delete videos that were made with other settings")
    add_part(page)


def run_generate(options: argparse.Namespace) -> int:
    """Prompts to synthetic multi-view videos (section 3.2).

    Draw a picture for each prompt and turn it into a 16-view video with the fine-tuned video model, into
    WebDataset shards in RUN_DIR/data/synthetic. Reads RUN_DIR/data/prompts (made by `vfusion3d prompts`) and
    RUN_DIR/video_model/model (by `vfusion3d finetune-video`).
    A shard is a unit of work: any machine can make it, with the same result.
    Interrupt it at any time: the same command goes on where it stopped, and makes nothing twice.

    examples:
      vfusion3d generate --profile laptop
      vfusion3d generate --profile laptop --weights mini -o runs/laptop/before      (the model before fine-tuning)
      vfusion3d generate --profile paper --shard 3 --shards 64                      (on the 4th of 64 machines)
    """
    part = part_of(options)
    from vfusion3d.foundations.image_to_video import load_video_model
    from vfusion3d.foundations.loading import dtype_of, name_of
    from vfusion3d.foundations.text_to_image import text_to_image
    from vfusion3d.video.generate import generate_videos
    from vfusion3d.video.prompts import PROMPTS, read_prompts

    profile, run_dir = run_of(options)
    table = layout.prompt_table.need(run_dir, profile=options.profile) / PROMPTS
    tuned = None
    if options.weights is None:
        tuned = layout.video_model.need(run_dir, profile=options.profile) / "model"
    output = options.output or layout.synthetic_data(run_dir)
    weights = ("--weights", options.weights or tuned)
    check_outputs(options, [("the prompts", table.parent), weights], folders=[("-o", output)])
    model = load_video_model(_with_video_model(profile, options.weights), tuned, dtype_of(profile))
    prompts = read_prompts(table)[: profile.data.videos]
    index = generate_videos(
        output,
        prompts,
        text_to_image(profile),
        model,
        profile.video,
        drawn_by=name_of(profile, "text_to_image"),
        seed=options.seed,
        shard_size=profile.data.shard_size,
        part=part,
        overwrite=options.overwrite,
    )
    print(index if index.exists() else f"{index.parent}: the other parts are still to be made")
    return 0


def add_curate(commands) -> None:
    page = add_run(new_page(commands, "curate", run_curate))
    page.add_argument(
        "--judgements",
        "--annotations",  # as it was called before
        type=Path,
        metavar="FILE",
        help="judgements: a .csv file with the columns key, good (yes or no), judge, videos",
    )
    page.add_argument("--learn", action="store_true", help="learn what labels, and label nothing yet")
    page.add_argument("--overwrite", action="store_true", help="delete labels that were made with other settings")
    add_part(page)


def run_curate(options: argparse.Namespace) -> int:
    """Score, elevation and masks of the synthetic videos (section 3.2).

    Train the quality filter on judged videos and the elevation network on the 3D data in RUN_DIR/data/train_3d,
    and label every video in RUN_DIR/data/synthetic (made by `vfusion3d generate`) into RUN_DIR/data/labels.
    No video is removed: whoever reads the labels chooses from which score on a video is kept.
    The models and the judgements go to RUN_DIR/curation. Without --judgements the simulated judge looks at
    as many videos as the profile says, unless people have judged all of them (in notebook 05, video by video); it
    can where the procedural world drew the pictures.
    Interrupt it at any time: the same command goes on where it stopped.

    examples:
      vfusion3d curate --profile laptop
      vfusion3d curate --profile laptop --judgements mine.csv
      vfusion3d curate --profile paper --judgements mine.csv --learn      (once, before many machines label)
      vfusion3d curate --profile paper --judgements mine.csv --shard 3 --shards 64      (on the 4th of 64 machines)
    """
    part = part_of(options)
    from vfusion3d.curation import JUDGEMENTS, Judgements, label_videos, new_labeller, videos_to_judge
    from vfusion3d.data.shards import MultiviewShards, VideoShards
    from vfusion3d.data.synthetic import read_labels
    from vfusion3d.foundations.perceptual import perceptual_distance
    from vfusion3d.stand_ins.judge import judge_videos

    if options.judgements is not None and not options.judgements.is_file():
        raise FileNotFoundError(f"--judgements {options.judgements}: no such file; notebook 05 makes one")
    profile, run_dir = run_of(options)
    objects = layout.objects_3d.need(run_dir, profile=options.profile)
    videos = VideoShards(layout.synthetic_data.need(run_dir, profile=options.profile))
    models = layout.curation_models(run_dir)
    labels = layout.synthetic_labels(run_dir)
    check_outputs(options, [("--judgements", options.judgements or "")], folders=[("the folder of the labels", labels)])
    if options.judgements is not None:
        judgements = Judgements(options.judgements, videos)
    else:
        judgements = Judgements(models / JUDGEMENTS, videos, set_aside=options.overwrite)
        places = videos_to_judge(videos, profile.data.judged_videos, options.seed)
        made = [judgements.get(videos.keys[place]) for place in places]
        if not all(one and not one.simulated for one in made):  # people judge in notebook 05
            judge_videos(judgements, videos, places, perceptual_distance(profile))
    shards = MultiviewShards(objects)
    labeller, settings = new_labeller(profile, models, videos, judgements, shards, options.seed)
    if options.learn:
        print(models)
        return 0
    index = label_videos(
        videos.folder,
        labels,
        labeller,
        settings=settings,
        part=part,
        overwrite=options.overwrite,
    )
    if not index.exists():
        print(f"{index.parent}: the other parts are still to be made")
        return 0
    scores = [facts["score"] for facts in read_labels(index.parent)[1]]
    print(f"the filter keeps {sum(score >= 0 for score in scores):,} of {len(scores):,} videos")
    print(index)
    return 0
