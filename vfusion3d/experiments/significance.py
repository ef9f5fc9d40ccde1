"""Whether a difference between two rows of a table would be there again: with other test items and other trainings.

Both rows answered the same questions with the same seeds (initial weights, order of data), so they are compared pair by
pair. Two things could have been otherwise, the items and the seeds. Their errors do not simply add up, so both are
drawn anew together: a bootstrap in two ways (`scipy.stats.bootstrap`). One training says nothing of another one: with a
single seed nothing is decided. Tests of one table are corrected for their number by Holm's method, and "no difference"
is tested against a margin that is stated beforehand, by two one-sided tests (Schuirmann, 1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

LEVEL = 0.05  # of all tests of a table together
ROUNDS = 2000
PLAIN = 8  # deviations from which on two seeds see an effect
FEWEST_SEEDS = 3  # below, how much trainings differ cannot be told


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds and items, with its standard error. p: two-sided, of no difference at all.

    by_seed: the mean over the items for each seed. equivalence: p of a difference beyond the margin; nan without one.
    """

    mean: float
    error: float
    p: float
    equivalence: float
    by_seed: Float[np.ndarray, "seeds"]
    items: int

    @property
    def seeds(self) -> int:
        """How many trainings each row had."""
        return len(self.by_seed)


def paired(scores: pd.DataFrame, row: str, other: str, metric: str) -> Float[np.ndarray, "seeds items"]:
    """`row` minus `other` for each seed and test item that both have. scores: of `results.all_scores`.

    Raises ValueError where one has no scores of the metric, or where they share no seed.
    """
    item = [name for name in ("test", "key") if name in scores]
    known = scores.dropna(subset=[metric])
    tables = {}
    for name in (row, other):
        mine = known[known["method"] == name]
        if mine.empty:
            raise ValueError(f"there are no scores {metric} of {name}")
        tables[name] = mine.pivot(index="seed", columns=item, values=metric)
    found = (tables[row] - tables[other]).dropna(how="all").dropna(axis=1)
    if found.empty:
        raise ValueError(f"{row} and {other} share no seed and no test item in {metric}")
    return found.to_numpy()


def compare(differences: Float[np.ndarray, "seeds items"], margin: float | None = None, seed: int = 0) -> Difference:
    """The mean of paired differences, and how sure it is.

    margin: the largest difference that counts as none, or None. The standard error is the two-way bootstrap's; p and
    equivalence come from Student's t with one degree of freedom less than seeds or items, whichever are fewer. With
    fewer than 3 seeds the error knows the items alone, and p and equivalence are not numbers.
    """
    seeds, items = differences.shape
    mean = float(differences.mean())
    alone = seeds < FEWEST_SEEDS
    drawn = differences.mean(axis=0, keepdims=True) if alone else differences

    def again(rows, columns):
        return drawn[np.ix_(rows.astype(int), columns.astype(int))].mean()

    options = {"vectorized": False, "n_resamples": ROUNDS, "method": "percentile", "rng": np.random.default_rng(seed)}
    places = [np.arange(count) for count in drawn.shape]
    if alone:
        (error,) = [stats.sem(drawn[0])] if items > 1 else [np.nan]
        return Difference(mean, float(error), np.nan, np.nan, differences.mean(axis=1), items)
    error = float(stats.bootstrap(places, again, **options).standard_error)
    free = min(seeds, items) - 1
    p = float(2 * stats.t.sf(abs(mean) / error, free)) if error else float(mean == 0)
    equivalence = np.nan
    if margin is not None:
        equivalence = float(stats.t.sf((margin - abs(mean)) / error, free)) if error else float(abs(mean) >= margin)
    return Difference(mean, error, p, equivalence, differences.mean(axis=1), items)


def holm(p: Sequence[float]) -> np.ndarray:
    """p values corrected for their number by Holm's method; those that are no numbers stay so."""
    p = np.asarray(p, float)
    known = ~np.isnan(p)
    corrected = np.full(len(p), np.nan)
    if known.any():
        corrected[known] = multipletests(p[known], alpha=LEVEL, method="holm")[1]
    return corrected


def seeds_needed(difference: Difference, effect: float | None = None, power: float = 0.8) -> float:
    """How many seeds would find an effect (by default: the difference that was seen) with this power, at `LEVEL`.

    From the deviation between the seeds that there are, by the power of a paired t test; nan with fewer than 2 seeds,
    infinite for an effect of 0.
    """
    if difference.seeds < 2:
        return np.nan
    effect = abs(difference.mean if effect is None else effect)
    deviation = float(difference.by_seed.std(ddof=1))
    if effect == 0:
        return np.inf
    if effect >= PLAIN * deviation:
        return 2.0  # the fewest of a t test
    found = TTestPower().solve_power(effect / deviation, alpha=LEVEL, power=power)
    return float(np.atleast_1d(found)[0])
