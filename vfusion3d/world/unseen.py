"""The unseen objects on which everything is tested: every category as often as any other, common and uncommon in turn.

A random sample of 40 objects would leave some categories out and favour one half by luck. Here object `index` has
category `index` of a fixed round, so any even number of objects is half common, half uncommon, and any 28 in a row hold
every category once. What the objects look like depends on the seed, which must differ from the training set's.

The prompts of the text-to-3D table (section 4.2) go round the categories in the same way: a stand-in for the 40 that
the paper takes from MVDream, the same for every run and seed, as a test set must be.
"""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from vfusion3d.data.render_dataset import Object3D
from vfusion3d.world.captions import describe, meaning
from vfusion3d.world.catalogue import COMMON, UNCOMMON
from vfusion3d.world.objects import build_mesh, sample_object

PROMPTS_SEED = 40_40
UNSEEN_SEED = 1_000_003  # added to a run's seed for its test objects
ROUND = tuple(name for pair in itertools.zip_longest(COMMON, UNCOMMON) for name in pair if name)


@dataclass(frozen=True)
class UnseenObjects:
    """A source for `render_dataset`: random objects whose categories go round."""

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        spec = sample_object(rng, (ROUND[index % len(ROUND)],))
        metadata = {"category": spec.category, "common": spec.category in COMMON, "spec": dataclasses.asdict(spec)}
        return Object3D(build_mesh(spec), describe(spec), metadata)


def eval_prompts(count: int) -> list[str]:
    """The first `count` evaluation prompts; no two mean the same."""
    rng = np.random.default_rng(PROMPTS_SEED)
    prompts: list[str] = []
    while len(prompts) < count:
        caption = describe(sample_object(rng, (ROUND[len(prompts) % len(ROUND)],)))
        if meaning(caption) not in map(meaning, prompts):
            prompts.append(caption)
    return prompts
