"""The prompts of the text-to-3D table (section 4.2): a stand-in for the 40 that the paper takes from MVDream.

They are the same for every run and seed, as a test set must be, and go round the categories, common and uncommon in
turn, so that any even number of them is half common, half uncommon.
"""

import numpy as np

from vfusion3d.data.captions import describe, meaning
from vfusion3d.data.objects import sample_object
from vfusion3d.data.unseen import ROUND

FIXED_SEED = 40_40


def eval_prompts(count: int) -> list[str]:
    """The first `count` prompts; no two mean the same."""
    rng, prompts = np.random.default_rng(FIXED_SEED), []
    while len(prompts) < count:
        caption = describe(sample_object(rng, (ROUND[len(prompts) % len(ROUND)],)))
        if meaning(caption) not in map(meaning, prompts):
            prompts.append(caption)
    return prompts
