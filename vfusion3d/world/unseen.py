"""The unseen objects on which everything is tested: every category as often as any other, common and uncommon in turn.

A random sample of 40 objects would leave some categories out and favour one half by luck. Here object `index` has
category `index` of a fixed round, so any even number of objects is half common, half uncommon, and any 28 in a row hold
every category once. What the objects look like depends on the seed, which must differ from the training set's.

The prompts of the text-to-3D table (section 4.2) go round the categories in the same way: a stand-in for the 40 that
the paper takes from MVDream, the same for every run and seed, as a test set must be.

A second set of such objects, of which none means the same as one of the test, is for choosing recipes: what was chosen
on the test would do well there by luck. Nothing that is trained on means the same as an object or a prompt of either
(`held_out`).
"""

import dataclasses
import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from vfusion3d.data.render_dataset import Object3D, object_draws
from vfusion3d.world.captions import describe, meaning
from vfusion3d.world.catalogue import COMMON, UNCOMMON, ObjectSpec
from vfusion3d.world.objects import build_mesh, sample_object

PROMPTS_SEED = 40_40
UNSEEN_SEED = 1_000_003  # added to a run's seed for its test objects
VALIDATION_SEED = 2_000_003  # and for its validation objects
MOST = 500  # objects of the test, and of validation, that nothing to learn from may mean, whatever a profile takes
MOST_PROMPTS = 100
ROUND = tuple(name for pair in itertools.zip_longest(COMMON, UNCOMMON) for name in pair if name)
Meaning = frozenset[str]


@dataclass(frozen=True)
class UnseenObjects:
    """A source for `render_dataset`: random objects whose categories go round.

    apart_from: the seed of a test set of `MOST` objects; none means the same as one of these, or as a prompt.
    """

    apart_from: int | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> Object3D:
        spec = self.spec(index, rng)
        metadata = {"category": spec.category, "common": spec.category in COMMON, "spec": dataclasses.asdict(spec)}
        return Object3D(build_mesh(spec), describe(spec), metadata)

    def spec(self, index: int, rng: np.random.Generator) -> ObjectSpec:
        """What object `index` is."""
        never = frozenset() if self.apart_from is None else _of_the_test(self.apart_from)
        return sample_apart(rng, (ROUND[index % len(ROUND)],), never)


def sample_apart(rng: np.random.Generator, categories: tuple[str, ...] | None, never: frozenset[Meaning]) -> ObjectSpec:
    """`sample_object`, drawn again as long as its caption means something of `never`."""
    while meaning(describe(spec := sample_object(rng, categories))) in never:
        pass
    return spec


@functools.cache
def held_out(seed: int) -> frozenset[Meaning]:
    """What nothing to learn from may mean in a run of that seed: its test and validation objects, and the prompts."""
    test = seed + UNSEEN_SEED
    return _of_the_test(test) | _meanings(UnseenObjects(test), seed + VALIDATION_SEED)


@functools.cache
def _of_the_test(seed: int) -> frozenset[Meaning]:
    return _meanings(UnseenObjects(), seed) | frozenset(map(meaning, eval_prompts(MOST_PROMPTS)))


def _meanings(source: UnseenObjects, seed: int) -> frozenset[Meaning]:
    return frozenset(meaning(describe(source.spec(i, object_draws(seed, i)[0]))) for i in range(MOST))


def eval_prompts(count: int) -> list[str]:
    """The first `count` evaluation prompts; no two mean the same."""
    rng = np.random.default_rng(PROMPTS_SEED)
    prompts: dict[Hashable, str] = {}  # by meaning
    while len(prompts) < count:
        caption = describe(sample_object(rng, (ROUND[len(prompts) % len(ROUND)],)))
        prompts.setdefault(meaning(caption), caption)
    return list(prompts.values())
