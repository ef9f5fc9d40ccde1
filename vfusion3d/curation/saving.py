"""The filter and the elevation network as skops files: numbers and names of classes, no code that runs on reading."""

import zipfile
from functools import partial
from pathlib import Path

from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from vfusion3d.settings import write_whole

TRUSTED = ("sklearn.neural_network._stochastic_optimizers.AdamOptimizer",)  # beyond what skops trusts by itself


def save_model(model: Pipeline | TransformedTargetRegressor, path: str | Path) -> None:
    """Write a fitted scikit-learn model, to a temporary name that is renamed when whole."""
    import skops.io

    write_whole(path, partial(skops.io.dump, model))


def load_model(path: str | Path) -> Pipeline | TransformedTargetRegressor:
    """Read it back. Raises ValueError for a broken file and for one that holds any other class than the two need."""
    import skops.io

    try:
        foreign = set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED)
    except (zipfile.BadZipFile, KeyError) as error:  # KeyError: a zip of something else
        raise ValueError(f"{path} is not a whole skops file ({error}): delete it and train the model again") from error
    if foreign:
        raise ValueError(f"{path} holds {', '.join(sorted(foreign))}: it is not a model of this project")
    return skops.io.load(path, trusted=list(TRUSTED))
