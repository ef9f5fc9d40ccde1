"""What makes the reconstructions sharp? Short trainings that differ in one thing, compared by samples and by CPU time.

    python benchmarks/pilots.py as_bundled ball patch_4 --samples 8000
    python benchmarks/pilots.py --list

Every pilot learns from random primitives alone, from nothing, with a learning rate that stays where it is after the
warm-up. What is scored is an average of the weights, so that every mark of a curve says what the pilot was worth if
it ended there. Scores are of one view in and a few novel ones out, on primitives and on objects of all categories that
no pilot sees. A row of the CSV is one mark; `cpu_seconds` is the time of all threads of this process in training alone,
which holds on a busy machine too. The same command goes on where it stopped.

The data (minutes), with P for vfusion3d/weights/base.yaml:

    vfusion3d render --profile P --objects primitives --seed 11 -o runs/pilots/train
    vfusion3d render --profile P --objects primitives --seed 777 --count 60 -o runs/pilots/held
    vfusion3d render --profile laptop
"""

import argparse
import dataclasses
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState

from vfusion3d.data.shards import MultiviewShards
from vfusion3d.data.subset import Subset
from vfusion3d.evaluation.protocol import evaluate_3d, model_predictor
from vfusion3d.foundations.perceptual import PerceptualDistance, perceptual_distance
from vfusion3d.learning.loop import load_weights
from vfusion3d.model.initialise import start_local
from vfusion3d.model.sizes import SIZES
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.claim import save_whole
from vfusion3d.runs.profiles import LossWeights, load_profile
from vfusion3d.training.train import train_vfusion3d

PROFILE = Path(__file__).parents[1] / "vfusion3d" / "weights" / "base.yaml"
METRICS = ["psnr", "ssim", "lpips"]


@dataclass(frozen=True)
class Pilot:
    """What differs from how `base` was trained: sizes of the model, entries of the recipe. start: weights, or None."""

    what: str
    size: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    start: str | None = None

    def also(self, what: str, size: dict[str, Any] | None = None, **recipe) -> "Pilot":
        """This pilot with one thing more."""
        return dataclasses.replace(self, what=what, size=self.size | (size or {}), recipe=self.recipe | recipe)


AS_BUNDLED = Pilot("sizes and recipe of the bundled base", recipe={"average": 0.99, "cooldown": 0.0})
BALL = AS_BUNDLED.also("rays and tokens within 0.8 only, 16 samples a ray", {"radius": 0.8}, samples_per_ray=16)
HEADS = BALL.also("2 heads in place of 4", {"heads": 2})
BATCH = HEADS.also("batch 16", batch_size=16)
SHARP = BATCH.also(
    "patches of 4, 4 encoder layers, 16 tokens a plane's side",
    {"patch_size": 4, "position_grid": 16, "encoder_layers": 4, "triplane_size": 16},
)
FURTHER = BALL.also(
    "on from the bundled base: batch 16, MSE, mirrored, colours permuted, cooling down",
    batch_size=16, variety=True, learning_rate=7e-4, warmup_steps=20, cooldown=0.6,
)  # fmt: skip
SHARP_VARIED = SHARP.also("also mirrored, colours permuted", variety=True)
PILOTS = {
    "further": dataclasses.replace(FURTHER, start="base"),
    "cool": dataclasses.replace(
        FURTHER.also(
            "on from --start: patches of 32 with LPIPS, MSE and L1, cooling down from the first step",
            losses=LossWeights(lpips=0.3, opacity=0.3, mse=0.5, l1=0.5),
            rays_per_view=0,
            patch_size=32,
            views=3,
            batch_size=8,
            cooldown=0.95,
        ),
        start="base",
    ),
    "further_l1": dataclasses.replace(
        FURTHER.also(
            "on from the bundled base as `further`, with L1 beside MSE", losses=LossWeights(0.0, 0.3, 0.5, 0.5)
        ),
        start="base",
    ),
    "further_on": dataclasses.replace(
        FURTHER.also(
            "on from the bundled base: batch 8 at a rate of 1.5e-3 that stays",
            batch_size=8,
            learning_rate=1.5e-3,
            cooldown=0.0,
        ),
        start="base",
    ),
    "as_bundled": AS_BUNDLED,
    "ball": BALL,
    "heads": HEADS,
    "batch_16": BATCH,
    "variety": BATCH.also("mirrored, colours permuted", variety=True),
    "l1": HEADS.also("mirrored, batch 8, L1 beside MSE", variety=True, losses=LossWeights(0.0, 0.3, 0.5, 0.5)),
    "batch_8": HEADS.also("mirrored, colours permuted, batch 8", variety=True),
    "batch_4": HEADS.also("mirrored, colours permuted, batch 4", variety=True, batch_size=4),
    "patch_4": BATCH.also(
        "patches of 4, 4 encoder layers", {"patch_size": 4, "position_grid": 16, "encoder_layers": 4}
    ),
    "tokens_16": BATCH.also("16 tokens a plane's side", {"triplane_size": 16}),
    "sharp": SHARP,
    "sharp_varied": SHARP_VARIED,
    "sharp_rate_3": SHARP_VARIED.also("that, with a learning rate of 3e-3", learning_rate=3e-3),
    "sharp_8": SHARP_VARIED.also("that, with batch 8 and a learning rate of 3e-3", batch_size=8, learning_rate=3e-3),
    "long": SHARP_VARIED.also(
        "what to train for long: that, with batch 8, a learning rate of 2e-3, L1 beside MSE, a longer average",
        batch_size=8,
        learning_rate=2e-3,
        losses=LossWeights(0.0, 0.3, 0.5, 0.5),
        average=0.998,
    ),
    "long_16": SHARP_VARIED.also(
        "as `long`, with batch 16 on two processes",
        batch_size=16,
        learning_rate=2.5e-3,
        losses=LossWeights(0.0, 0.3, 0.5, 0.5),
        average=0.998,
    ),
    "sharp_deep": SHARP_VARIED.also("that, with 6 layers in place of 3", {"layers": 6}),
    "sharp_rays": SHARP_VARIED.also("that, with 192 rays a view", rays_per_view=192),
    "sharp_thin": SHARP_VARIED.also("that, with an encoder 96 wide", {"encoder_width": 96, "encoder_heads": 3}),
    "deep": BATCH.also("6 layers in place of 3", {"layers": 6}),
    "wide": BATCH.also("192 wide, 3 heads", {"width": 192, "heads": 3}),
    "rate_3": BATCH.also("learning rate 3e-3", learning_rate=3e-3),
    "rate_075": BATCH.also("learning rate 0.75e-3", learning_rate=0.75e-3),
    "views_4": BATCH.also("4 views of 96 rays in place of 6", views=4),
    "rays_192": BATCH.also("192 rays a view", rays_per_view=192),
}


def run(name: str, options: argparse.Namespace) -> None:
    """Train one pilot and write a row for each mark to FOLDER/NAME.csv."""
    pilot, profile, folder = PILOTS[name], load_profile(PROFILE), options.folder / name
    recipe = dataclasses.replace(profile.training, mixed_precision="auto", **pilot.recipe)
    steps = math.ceil(options.samples / recipe.batch_size)
    data = MultiviewShards(options.data)
    epochs = (dataclasses.replace(recipe.stages[0], epochs=steps * recipe.batch_size / len(data)),)
    recipe = dataclasses.replace(recipe, stages=epochs, max_steps=steps)
    model = new_model(pilot, options)
    distance, seen = perceptual_distance(load_profile("laptop")), {"evaluating": 0.0}
    table, begun = options.folder / f"{name}.csv", time.process_time()

    def show(model: VFusion3D, step: int) -> None:
        paused = time.process_time()
        row = {
            "pilot": name,
            "what": pilot.what,
            "parameters": model.num_parameters(),
            "samples": step * recipe.batch_size,
            "cpu_seconds": round(paused - begun - seen["evaluating"], 1),
        }
        for kind, test in {"primitives": options.held, "objects": options.unseen}.items():
            row |= {f"{metric}_{kind}": value for metric, value in score(model, test, distance, options).items()}
        pd.DataFrame([row]).to_csv(table, mode="a", header=not table.exists(), index=False, float_format="%.5g")
        print(" ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()))
        seen["evaluating"] += time.process_time() - paused

    marks = max(1, round(options.every / recipe.batch_size))
    options.folder.mkdir(parents=True, exist_ok=True)
    profile = dataclasses.replace(profile, training=recipe)
    if recipe.losses.lpips:
        roles = dataclasses.replace(profile.foundations, perceptual_distance="mini")
        profile = dataclasses.replace(profile, foundations=roles)
    if not table.exists() and PartialState().is_main_process:
        show(model.eval(), 0)
    how = {"show": show, "show_every": marks, "checkpoint_every": marks, "seed": options.seed}
    train_vfusion3d(profile, data, folder, model=model, **how)


def new_model(pilot: Pilot, options: argparse.Namespace) -> VFusion3D:
    """Where a pilot begins."""
    if start := options.start or pilot.start:
        return VFusion3D.from_pretrained(start, **({} if options.start else pilot.size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = VFusion3D(image_size=64, **(SIZES["mini"] | pilot.size))
    return start_local(model, torch.Generator().manual_seed(options.seed))


def score(model: VFusion3D, test: Path, distance: PerceptualDistance, options: argparse.Namespace) -> dict[str, float]:
    """Mean PSNR, SSIM and LPIPS over the first objects of a test set, at 64 pixels."""
    shards = MultiviewShards(test)
    some = Subset(shards, range(min(options.objects, len(shards))))
    how = {"size": 64, "perceptual": distance, "views": options.views, "generator": np.random.default_rng(0)}
    return evaluate_3d(model_predictor(model), some, **how)[METRICS].mean().to_dict()


def main() -> None:
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("names", nargs="*", choices=[[], *PILOTS], metavar="NAME", help="pilots; --list shows them")
    page.add_argument("--list", action="store_true", help="show the pilots, and do nothing")
    page.add_argument("--export", action="store_true", help="write the averaged weights so far to FOLDER/NAME/average")
    page.add_argument("--samples", type=int, default=8000, help="objects shown, each with an input view of its own")
    page.add_argument("--every", type=int, default=2000, help="samples between two marks")
    page.add_argument("--objects", type=int, default=20, help="scored of each test set")
    page.add_argument("--views", type=int, default=6, help="novel views scored of each object")
    page.add_argument("--data", type=Path, default=Path("runs/pilots/train"), help="primitives to learn from")
    page.add_argument("--held", type=Path, default=Path("runs/pilots/held"), help="primitives to score on")
    page.add_argument("--unseen", type=Path, default=Path("runs/laptop/data/test"), help="objects to score on")
    page.add_argument("--folder", type=Path, default=Path("runs/pilots"), help="for the runs and their CSV files")
    page.add_argument("--start", metavar="WEIGHTS", help="to go on from, in place of the pilot's own start")
    page.add_argument("--seed", type=int, default=0, help="of weights, batches and samples")
    page.add_argument("--threads", type=int, help="of this process (default: one a core)")
    options = page.parse_args()
    if options.list or not options.names:
        for name, pilot in PILOTS.items():
            print(f"{name:12} {pilot.what}")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    PartialState(cpu=True)
    for name in options.names:
        if options.export:
            model = new_model(PILOTS[name], options)
            step = load_weights(options.folder / name, model)
            save_whole(model.save_pretrained, options.folder / name / "average")
            print(f"{options.folder / name / 'average'}: after {step:,} steps")
        else:
            run(name, options)


if __name__ == "__main__":
    main()
