"""Random numbers that belong to a sample: the same ones whoever computes it, and together with whichever others.

So a batch may be shared by any number of processes, or be computed piece by piece, and is the same batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]  # one for a whole batch, or one a sample (as diffusers has it)


def generator_of(*seeds: int) -> torch.Generator:
    """A generator on the CPU for these numbers, 0 or more each; other numbers give an unrelated one."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]))


def sample_generators(seed: int, step: int, places: Sequence[int]) -> list[torch.Generator]:
    """A generator for each of some places in the batch of a step."""
    return [generator_of(seed, step, place) for place in places]


def drawn(draw: Callable[..., Tensor], shape: Sequence[int], generator: Generators) -> Tensor:
    """`draw(shape, generator=generator)`, such as torch.rand or torch.randn; with one generator a sample, row by row.

    shape: (samples, ...). Raises ValueError for another number of generators than samples.
    """
    if isinstance(generator, torch.Generator):
        return draw(tuple(shape), generator=generator, device=generator.device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators cannot draw for {shape[0]} samples")
    return torch.stack([draw(tuple(shape[1:]), generator=one, device=one.device) for one in generator])
