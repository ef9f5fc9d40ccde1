"""`vfusion3d train`, `evaluate`, `experiment` and `study`: VFusion3D and what it is worth (sections 3.3 and 4)."""

import argparse
import time
from functools import partial
from pathlib import Path

from vfusion3d.cli.page import add_run, check_outputs, new_page, run_of
from vfusion3d.runs import layout
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.ranges import in_range


def add_train(commands) -> None:
    page = add_run(new_page(commands, "train", run_train))
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
    """Train VFusion3D on synthetic videos, fine-tune it on 3D data (section 3.3).

    Train VFusion3D by the profile's recipe on the synthetic videos in RUN_DIR/data/synthetic that the filter
    keeps, with the elevations and masks in RUN_DIR/data/labels. With --finetune: train what came out further,
    on the 3D data in RUN_DIR/data/train_3d (made by `vfusion3d render`) by the profile's recipe of fine-tuning.
    With --data: learn from rendered shards of your own in place of either.
    Checkpoints and the loss log go to RUN_DIR/vfusion3d (with --finetune RUN_DIR/vfusion3d_finetuned), the
    finished weights to the folder model in it.
    Interrupt it at any time: the same command goes on where it stopped, to the same loss curve.

    examples:
      vfusion3d train --profile laptop
      vfusion3d train --profile laptop --finetune
      vfusion3d train --profile gpu --data shards/ -o runs/mine
      torchrun --nproc_per_node 8 -m vfusion3d.cli train --profile paper
    """
    from vfusion3d import VFusion3D
    from vfusion3d.training.train import train_vfusion3d

    profile, run_dir = run_of(options)
    recipe = profile.training
    weights = options.weights
    if options.finetune:
        recipe = profile.finetuning
        if recipe is None:
            raise ValueError(
                f"the profile {profile.name} has no `finetuning`: add that recipe to a profile of your own"
            )
        weights = weights or layout.pretrained_model.need(run_dir, profile=options.profile) / "model"
    folder = options.output or (layout.finetuned_model if options.finetune else layout.pretrained_model)(run_dir)
    check_outputs(options, [("--data", options.data or ""), ("--weights", weights or "")], folders=[("-o", folder)])
    data = _training_data(options, run_dir)
    model = VFusion3D.from_pretrained(weights) if weights else None
    train_vfusion3d(profile, data, folder, recipe=recipe, model=model, seed=options.seed, overwrite=options.overwrite)
    print(folder / "model")
    return 0


def _training_data(options: argparse.Namespace, run_dir: Path):
    """What `train` learns from: a folder of rendered shards, or the labelled synthetic videos."""
    if options.data or options.finetune:
        return options.data or layout.objects_3d.need(run_dir, profile=options.profile)
    from vfusion3d.data.synthetic import SyntheticShards

    videos = layout.synthetic_data.need(run_dir, profile=options.profile)
    data = SyntheticShards(videos, layout.synthetic_labels.need(run_dir, profile=options.profile))
    print(f"the filter keeps {len(data):,} of {len(data.facts):,} videos")
    return data


def add_evaluate(commands) -> None:
    page = add_run(new_page(commands, "evaluate", run_evaluate))
    page.add_argument("--weights", metavar="NAME", help="what to evaluate (default: the newer model of this run)")
    page.add_argument("--data", type=Path, metavar="FOLDER", help="shards of objects (default: RUN_DIR/data/test)")
    page.add_argument(
        "--validation",
        action="store_true",
        help="on RUN_DIR/data/validation: recipes are chosen there, not on the test",
    )
    page.add_argument(
        "--size", type=in_range("size"), metavar="PIXELS", help="of compared views (default: the model's input)"
    )
    page.add_argument(
        "-o", "--output", type=Path, metavar="CSV", help="(default: RUN_DIR/evaluation_3d.csv or validation_3d.csv)"
    )


def run_evaluate(options: argparse.Namespace) -> int:
    """Compare novel views of unseen objects with the truth (Table 5's protocol).

    One view in, 32 novel views out: PSNR, SSIM and LPIPS against the true renders, CLIP similarity to caption
    and input, beside simple baselines (the nearest training object where RUN_DIR/data/train_3d is there).
    Reads RUN_DIR/data/test (made by `vfusion3d render`), and the newer of this run's models: of
    RUN_DIR/vfusion3d (by `vfusion3d train`) and RUN_DIR/vfusion3d_finetuned (by `vfusion3d train --finetune`).
    Prints the means and writes one row per object and method to the file given by -o.

    examples:
      vfusion3d evaluate --profile laptop
      vfusion3d evaluate --weights mini --data shards/ -o mini.csv
      vfusion3d evaluate --validation --weights runs/laptop/experiments/baseline/seed-0/trained/model
    """
    import numpy as np

    from vfusion3d import VFusion3D
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.evaluation import evaluate_3d, model_predictor
    from vfusion3d.evaluation.baselines import build_index, repeat_input, retrieval, white
    from vfusion3d.evaluation.tables import mean_over_objects
    from vfusion3d.foundations.image_features import image_features
    from vfusion3d.foundations.roles import Roles

    profile, run_dir = run_of(options)
    if options.validation and options.data:
        options.parser.error("--validation and --data: give one of the two")
    unseen = layout.validation_data if options.validation else layout.test_data
    data = options.data or unseen.need(run_dir, profile=options.profile)
    weights = options.weights or _newest_model(options, run_dir)
    output = options.output or run_dir / ("validation_3d.csv" if options.validation else "evaluation_3d.csv")
    check_outputs(options, [("--data", data), ("--weights", weights)], files=[("-o", output)])
    roles = Roles(profile)
    model = VFusion3D.from_pretrained(weights).to(roles.device).eval()
    shards = MultiviewShards(data)
    size = options.size or min(model.config.image_size, shards.read(0, views=[0]).rgba.shape[-1])
    methods = {"VFusion3D": model_predictor(model), "input view repeated": repeat_input, "white image": white}
    if not layout.objects_3d.missing(run_dir):
        features = image_features(profile)
        seen = build_index(MultiviewShards(layout.objects_3d(run_dir)), features, device=roles.device)
        methods["nearest training object"] = retrieval(seen, features)
    table = evaluate_3d(
        methods,
        shards,
        size=size,
        perceptual=roles.perceptual_distance,
        clip=roles.clip,
        generator=np.random.default_rng(options.seed),
        device=roles.device,
    )
    write_whole(output, partial(table.to_csv, index=False))
    print(weights)
    print(mean_over_objects(table).to_string(float_format="{:.4f}".format))
    print(output)
    return 0


def _newest_model(options: argparse.Namespace, run_dir: Path) -> Path:
    """The fine-tuned model of the run, unless the one it began with was trained anew since."""
    first, finetuned = layout.pretrained_model(run_dir) / "model", layout.finetuned_model(run_dir) / "model"
    if finetuned.exists() and not (first.exists() and first.stat().st_mtime > finetuned.stat().st_mtime):
        return finetuned
    return layout.pretrained_model.need(run_dir, profile=options.profile) / "model"


def add_experiment(commands) -> None:
    page = add_run(new_page(commands, "experiment", run_experiment))
    page.add_argument("names", nargs="*", metavar="NAME", help="variants, or tables (table_3 to table_6, figure_7)")
    page.add_argument(
        "--seeds", type=in_range("seeds"), help="how many, from --seed on (default: what the profile gives the table)"
    )
    page.add_argument("--list", action="store_true", help="show the tables and their variants, and do nothing")
    page.add_argument("--plan", action="store_true", help="show what would be trained, and do nothing")
    page.add_argument("--overwrite", action="store_true", help="delete what was made with other settings")


def run_experiment(options: argparse.Namespace) -> int:
    """Train and evaluate the variants of Tables 3 to 6 and Figure 7 (sections 4.3 and 4.4).

    Make one or more variants of the pipeline, or all that a table needs: their data, their training and their
    scores, in RUN_DIR/experiments/NAME/seed-N. What notebooks 03, 06 and 07 or another variant trained with the
    same settings is only evaluated. Needs the results of notebooks 01 to 05.
    Interrupt it at any time: the same command goes on where it stopped.

    examples:
      vfusion3d experiment --list
      vfusion3d experiment table_4 --profile laptop
      vfusion3d experiment finetuned_10k finetuned_30k --seed 1 --seeds 1
      vfusion3d experiment figure_7 --profile paper --plan
    """
    from vfusion3d.experiments.variants import load_experiments

    experiments = load_experiments()
    if options.list:
        for table, rows in experiments.tables.items():
            print(table, *(f"  {row:24} {name}" for row, name in rows.items()), sep="\n")
        return 0
    if not options.names:
        options.parser.error("name a variant or a table; --list shows what there is")
    from vfusion3d.experiments.plan import planned_runs, planned_table
    from vfusion3d.experiments.run import run_variant

    profile, run_dir = run_of(options)
    runs = experiments.runs(profile, options.names, options.seed, options.seeds)
    if options.plan:
        planned = planned_runs(profile, options.names, options.seed, options.seeds)
        print(planned_table(planned).to_string(index=False))
        return 0
    for number, (name, seed) in enumerate(runs, 1):
        start = time.perf_counter()
        print(f"{number} of {len(runs)}: {name}, seed {seed}", flush=True)
        result = run_variant(profile, run_dir, name, seed, experiments=experiments, overwrite=options.overwrite)
        means = result.scores[["ssim", "lpips", "clip_text", "clip_image"]].mean()
        print(*(f"{metric} {value:.4f}" for metric, value in means.items()), sep="  ", end="  ")
        print(f"({time.perf_counter() - start:.0f} s; model: {result.model})", flush=True)
    return 0


def add_study(commands) -> None:
    page = add_run(new_page(commands, "study", run_study))
    page.add_argument("--rater", metavar="NAME", help="who answers (default: the page asks)")
    page.add_argument("--against", nargs="+", metavar="METHOD", help="(default: every method that is there)")
    page.add_argument("--port", type=in_range("port"), default=8765, help="of the address")
    page.add_argument("--host", default="127.0.0.1", help="who can open the page: by default only this machine")


def run_study(options: argparse.Namespace) -> int:
    """The user study as a page in your browser (section 4.2, Figure 5).

    Serve a page that shows two turning objects at a time, one by VFusion3D and one by another method, and asks
    which looks better, or which is truer to the input picture. Open the printed address, and choose.
    Reads RUN_DIR/items and RUN_DIR/views (made by notebooks 08 and 09), and what other programs made of these
    items: RUN_DIR/methods/TASK/METHOD/KEY.mp4 or KEY/*.png. Every answer is written to
    RUN_DIR/user_study/RATER.csv at once: stop the server or close the browser at any time, the same command
    goes on where the rater stopped.
    With five such files of five people, notebook 10 draws Figure 5 from them.

    examples:
      vfusion3d study --rater anna
      vfusion3d study --profile gpu --port 8000 --against OpenLRM LGM
      vfusion3d study --host 0.0.0.0                   (others in your network can take part: the page asks for names;
                                                        give them the whole address, with this machine's name in it)
    """
    from vfusion3d.study.answers import checked_rater, load_items
    from vfusion3d.study.page import Study, study_server

    _, run_dir = run_of(options)
    rater = None if options.rater is None else checked_rater(options.rater)
    study = Study(load_items(run_dir, options.against), layout.user_study(run_dir), options.seed)
    with study_server(study, options.port, options.host) as server:
        print(f"{server.address(rater=rater)}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"\nanswers are in {study.folder}; the same command goes on")
    return 0
