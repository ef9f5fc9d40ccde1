"""The schedule of section 3.3 as functions of the step: learning rate, stage, rendering resolution.

Multi-stage training renders at 128, 192, 256, 320 and 384 pixels, one after the other, always in patches of 128, and
starts the learning rate anew once after the stage of 192. The baseline (LRM's) draws a resolution for every step.
"""

import math
from itertools import accumulate

import torch

from vfusion3d.runs.profiles import Recipe, Stage


def total_steps(recipe: Recipe, objects: int) -> int:
    """Optimizer steps of the whole recipe for a data set of that many objects."""
    steps = max(1, math.ceil(recipe.epochs * objects / recipe.batch_size))
    return min(steps, recipe.max_steps or steps)


def stage_ends(recipe: Recipe, steps: int) -> list[int]:
    """The step at which each stage is over; the last is `steps`."""
    done = accumulate(stage.epochs for stage in recipe.stages)
    return [round(steps * epochs / recipe.epochs) for epochs in done]


def stage_at(recipe: Recipe, step: int, steps: int) -> Stage:
    """The stage that a step, counted from 0, belongs to."""
    for stage, end in zip(recipe.stages, stage_ends(recipe, steps), strict=True):
        if step < end:
            return stage
    return recipe.stages[-1]


def render_resolution(recipe: Recipe, step: int, steps: int, generator: torch.Generator) -> int:
    """The stage's resolution; without the multi-stage recipe, one between the first and the last stage's at random."""
    if recipe.multi_stage:
        return stage_at(recipe, step, steps).resolution
    low, high = recipe.stages[0].resolution, recipe.stages[-1].resolution
    return int(torch.randint(low, high + 1, (), generator=generator))


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then cosine annealing to 0; with the multi-stage recipe it restarts after the second stage.

    With a cooldown the rate stays where it is after the warm-up, and falls linearly to 0 in the last steps.
    Where a run is too short for the recipe's warm-up, the warm-up takes a tenth of it.
    """
    restarts = recipe.multi_stage and recipe.restart_after_stage
    restart = stage_ends(recipe, steps)[recipe.restart_after_stage - 1] if restarts else 0
    warmup = min(recipe.warmup_steps, steps // 10)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.cooldown is not None:
        return recipe.learning_rate * min(1.0, (steps - step) / max(1.0, recipe.cooldown * steps))
    begin, end = (warmup, restart) if step < restart else (max(restart, warmup), steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - begin) / max(1, end - begin)))
