"""Is a difference more than luck with the test objects? All methods saw the same ones, so it is taken one by one."""

from collections.abc import Sequence

import pandas as pd


def paired_differences(
    results: pd.DataFrame, method: str, metrics: Sequence[str] = ("psnr", "ssim", "lpips")
) -> pd.DataFrame:
    """By how much `method` is ahead of every other method: mean and standard error over objects, "+0.012 ± 0.004".

    results: what `protocol.evaluate_3d` returned, a row an object and method. Returns a row for each other method, in
    the order in which they first appear, and a column a metric. Raises ValueError where the method is not among them,
    and where a method lacks an object that another has.
    """
    names = list(dict.fromkeys(results["method"]))
    if method not in names:
        raise ValueError(f"the results have no method {method!r}: choose one of {', '.join(names)}")
    others, columns = [name for name in names if name != method], {}
    for metric in metrics:
        scores = results.pivot(index="key", columns="method", values=metric)
        if scores.isna().any(axis=None):
            raise ValueError(f"not every method has a {metric} for every object: evaluate all of them in one call")
        ahead = scores[others].rsub(scores[method], axis=0)
        columns[metric] = [f"{ahead[name].mean():+.3f} ± {ahead[name].sem():.3f}" for name in others]
    return pd.DataFrame(columns, index=[f"{method} minus {name}" for name in others])
