"""What a training step of `base` costs and where its loss is after some steps, through the training loop itself.

    python benchmarks/training.py DATA
    python benchmarks/training.py DATA --radius 0.8 --samples-per-ray 16 --heads 2 --batch-size 16
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python benchmarks/training.py DATA --no-bfloat16      (as on a machine with AVX2 alone)

DATA: a folder of rendered primitives (benchmarks/pilots.py says how to make it). On one thread, and in CPU time, so the
numbers hold on a busy machine too; two cores with a process each do twice as much. Medians, without the first steps.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from vfusion3d.data.shards import MultiviewShards
from vfusion3d.learning import loop, muon, precision
from vfusion3d.model import vfusion3d as network
from vfusion3d.model.initialise import start_local
from vfusion3d.model.sizes import SIZES
from vfusion3d.runs.profiles import load_profile
from vfusion3d.training.losses import Losses
from vfusion3d.training.supervision import Supervision

PROFILE = Path(__file__).parents[1] / "vfusion3d" / "weights" / "base.yaml"
FIRST = 3  # steps that do not count: they allocate


def main() -> None:
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("data", type=Path, help="folder of rendered shards")
    page.add_argument("--steps", type=int, default=20)
    page.add_argument("--radius", type=float, help="of the ball in which the field is (default: the cube)")
    page.add_argument("--heads", type=int, default=4, help="of the triplane transformer")
    page.add_argument("--samples-per-ray", type=int, default=24)
    page.add_argument("--batch-size", type=int, default=8)
    page.add_argument("--no-bfloat16", action="store_true", help="as if the CPU had no instructions for it")
    options = page.parse_args()
    torch.set_num_threads(1)
    if options.no_bfloat16:
        for module in (precision, muon, network):
            module.has_bfloat16 = lambda: False
    size = SIZES["mini"] | {"heads": options.heads} | ({"radius": options.radius} if options.radius else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = start_local(network.VFusion3D(image_size=64, **size), torch.Generator().manual_seed(0))
    changes = {"samples_per_ray": options.samples_per_ray, "batch_size": options.batch_size}
    recipe = dataclasses.replace(load_profile(PROFILE).training, mixed_precision="auto", **changes)
    batches, losses_of = Supervision(MultiviewShards(options.data), recipe, 64, 10_000), Losses(recipe, None)
    steps, drawing, forward, losses = [], [], [], []

    def draw(step: int, places):
        begun = time.thread_time()
        batch = batches.batch(step, places)
        drawing.append(time.thread_time() - begun)
        return batch

    def compare(*what):
        steps.append(time.process_time())
        begun = time.thread_time()
        found = losses_of(*what)
        forward.append(time.thread_time() - begun)
        losses.append(found["loss"].item())
        return found

    settings = loop.LoopSettings(
        options.steps,
        batch_size=recipe.batch_size,
        learning_rate=lambda step: recipe.learning_rate * min(1, (step + 1) / 20),
        muon=True,
        mixed_precision=recipe.mixed_precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        loop.train(model, draw, compare, settings, folder, device="cpu")
    whole = [after - before for before, after in zip(steps[FIRST:], steps[FIRST + 1 :], strict=False)]
    middle = {"step": whole, "of it drawing": drawing[FIRST:], "of it forward": forward[FIRST:]}
    print(", ".join(f"{name} {statistics.median(values):.3f} s" for name, values in middle.items()))
    last = losses[-max(1, options.steps // 4) :]
    print(f"{recipe.batch_size / statistics.median(whole):.1f} samples a core second")
    print(
        f"loss {losses[0]:.4f} at first, {statistics.mean(last):.4f} over the last {len(last)} of {options.steps} steps"
    )


if __name__ == "__main__":
    main()
