"""The power law of Figure 7: an error that falls with the amount of data n as a * n^b, a line in log-log axes.

A similarity that ends at 1 is fitted by its distance from 1. The exponent's uncertainty comes from a bootstrap over
what could have been otherwise: the trainings (seeds) and the test items, both drawn anew with replacement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from vfusion3d.evaluation.figures import BLUE, TEXT_WIDTH, paper_style
from vfusion3d.evaluation.tables import METRICS


@dataclass(frozen=True)
class PowerLaw:
    """error = factor * n ** exponent; exponents: those of the bootstrap's rounds."""

    factor: float
    exponent: float
    exponents: Float[np.ndarray, "rounds"]

    def __call__(self, counts: Sequence[float]) -> np.ndarray:
        """The error at these counts."""
        return self.factor * np.asarray(counts, float) ** self.exponent

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The exponent's percentile interval."""
        low, high = np.quantile(self.exponents, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def band(self, counts: Sequence[float], level: float = 0.95) -> Float[np.ndarray, "2 counts"]:
        """The errors at these counts by lines of the interval's exponents, through the middle of the fitted one.

        That is how sure the slope is. The height of all lines together hangs on the test items, and is left out.
        """
        counts = np.asarray(counts, float)
        middle = np.sqrt(counts.min() * counts.max())
        ends = np.array(self.interval(level))[:, None]
        return np.sort(self([middle]) * (counts / middle) ** ends, axis=0)


def power_law(counts: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """(factor, exponent) by least squares of log error on log count.

    Raises ValueError for fewer than two different counts, and for counts or errors that are not above 0.
    """
    counts = np.asarray(counts, float)
    errors = np.asarray(errors, float)
    if len(set(counts.tolist())) < 2:
        raise ValueError(f"a power law needs two different counts at least, not {sorted(set(counts.tolist()))}")
    if not (np.all(counts > 0) and np.all(errors > 0)):
        raise ValueError(f"counts and errors must be above 0: {counts.tolist()}, {errors.tolist()}")
    exponent, logarithm = np.polyfit(np.log(counts), np.log(errors), 1)
    return float(np.exp(logarithm)), float(exponent)


def fit_power_law(
    counts: Sequence[float],
    errors: Float[np.ndarray, "counts seeds items"],
    generator: np.random.Generator,
    rounds: int = 1000,
) -> PowerLaw:
    """The power law of the mean errors, and the bootstrap's, which draws each count's seeds and all counts' items.

    The items are the same for all counts, so they are drawn together. Raises ValueError as `power_law` does.
    """
    errors = np.asarray(errors, float)
    points, seeds, items = errors.shape
    factor, exponent = power_law(counts, errors.mean(axis=(1, 2)))
    drawn = []
    for _ in range(rounds):
        which = generator.integers(seeds, size=(points, seeds))
        chosen = np.take_along_axis(errors, which[..., None], axis=1)
        drawn.append(power_law(counts, chosen[..., generator.integers(items, size=items)].mean(axis=(1, 2))))
    return PowerLaw(factor, exponent, np.array(drawn)[:, 1])


def errors_of(scores: pd.DataFrame, points: Sequence[str], metric: str) -> Float[np.ndarray, "points seeds items"]:
    """What is to fall: the metric, or its distance from 1 where more is better. scores: of `results.all_scores`."""
    known = scores.dropna(subset=[metric])
    parts = [known[known["method"] == p].pivot(index="seed", columns="key", values=metric) for p in points]
    errors = np.stack([part.to_numpy() for part in parts])
    return 1 - errors if METRICS[metric][2] else errors


def scaling_figure(
    counts: Sequence[float], errors: Mapping[str, Float[np.ndarray, "counts seeds items"]], fits: Mapping[str, PowerLaw]
) -> Figure:
    """Figure 7: each metric against the number of videos, with the fitted power law and the 95% band of its slope.

    A mark is the mean over the seeds, its bar their standard deviation, a small dot one seed.
    """
    between = np.geomspace(min(counts), max(counts), 50)
    with paper_style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.6), layout="constrained")
        for axes, (metric, values) in zip(
            figure.subplots(1, len(errors), squeeze=False)[0], errors.items(), strict=True
        ):
            name, _, more = METRICS[metric]
            fit = fits[metric]

            def shown(error, more=more):
                return 1 - error if more else error

            means = values.mean(axis=2)
            spread = means.std(axis=1, ddof=1) if means.shape[1] > 1 else np.zeros(len(counts))
            low, high = fit.interval()
            what = "1 − similarity" if more else name[:-2]
            law = rf"$\propto n^{{{fit.exponent:.3f}}}$"
            title = rf"{what} {law} (95%: ${low:.3f}$ to ${high:.3f}$)"
            axes.fill_between(between, *shown(fit.band(between)), color="0.9", lw=0)
            axes.plot(between, shown(fit(between)), color="0.35", ls="--")
            for seed in means.T:
                axes.plot(counts, shown(seed), ".", color="0.55", markersize=3)
            axes.errorbar(counts, shown(means.mean(axis=1)), spread, fmt="o", color=BLUE, capsize=2.5, lw=1)
            axes.set(xscale="log", xlabel="synthetic videos", ylabel=name)
            axes.set_title(title, fontsize=9)
            axes.set_xticks(counts)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
    return figure
