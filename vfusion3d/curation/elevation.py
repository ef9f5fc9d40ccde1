"""From which elevation a video was filmed: a small network on image features, trained on 3D data (section 3.2).

All views of an orbit stand at one elevation, and nobody told the video model which: the first frame shows it. Features
of 4 uniform views, averaged, go through an MLP of 2 layers. The paper asks once a video; we ask for each group of 4
that its frames hold (4 groups of 16 frames), and average the answers.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from vfusion3d.cameras import HIGHEST_ELEVATION
from vfusion3d.model.input_elevation import two_layers

ELEVATION_VIEWS = 4
HIDDEN = 128


def train_elevation(
    features: Float[np.ndarray, "videos width"],
    elevation: Float[np.ndarray, "videos"],
    seed: int = 0,
    *,
    decay: float = 1e-2,
    learning_rate: float = 2e-3,
    epochs: int | None = None,
) -> TransformedTargetRegressor:
    """An MLP with one hidden layer that reads the elevation, in radians, off the features.

    decay: the weight of the squared weights in the loss. epochs: passes over the data; None: it stops when a tenth of
    the data, held out, is no longer predicted better. Raises ValueError for under 20 videos.
    """
    if len(features) < 20:
        raise ValueError(f"{len(features)} videos are too few to learn elevations from: render 20 at least")
    network = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,),
        alpha=decay,
        learning_rate_init=learning_rate,
        max_iter=400 if epochs is None else epochs,
        early_stopping=epochs is None,
        n_iter_no_change=30,
        random_state=seed,
    )
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a number of epochs is no failure
        return model.fit(features, elevation)


def predict_elevation(
    model: TransformedTargetRegressor, features: Float[np.ndarray, "videos width"]
) -> Float[np.ndarray, "videos"]:
    """Elevations in radians, within [0, pi/4], where those of the 3D data lie."""
    return np.clip(model.predict(features), 0.0, HIGHEST_ELEVATION)


def predict_by_groups(
    model: TransformedTargetRegressor, groups: Float[np.ndarray, "videos groups width"]
) -> Float[np.ndarray, "videos"]:
    """Elevations in radians: the mean over a video's groups of views (see `grouped`), each answer cut to [0, pi/4]."""
    answers = predict_elevation(model, groups.reshape(-1, groups.shape[-1]))
    return answers.reshape(groups.shape[:2]).mean(axis=1)


def grouped(frames: Float[np.ndarray, "videos frames width"]) -> Float[np.ndarray, "videos groups width"]:
    """The features of a video's frames in groups of 4 uniform views, each averaged.

    Frame `i` is in group `i` modulo the number of groups. Raises ValueError where their number is no multiple of 4.
    """
    videos, count, width = frames.shape
    if count % ELEVATION_VIEWS:
        raise ValueError(f"{count} frames cannot be divided into groups of {ELEVATION_VIEWS}: take a multiple of it")
    return frames.reshape(videos, ELEVATION_VIEWS, count // ELEVATION_VIEWS, width).mean(axis=1)


def mean_error(predicted: Float[np.ndarray, "videos"], true: Float[np.ndarray, "videos"]) -> float:
    """Mean absolute error in degrees."""
    return float(np.degrees(np.abs(predicted - true)).mean())


def as_network(model: TransformedTargetRegressor) -> nn.Sequential:
    """The same function in PyTorch, without `predict_elevation`'s bounds: both scalers become part of the layers."""
    scaler, mlp = model.regressor_[0], model.regressor_[-1]
    first, second = mlp.coefs_
    first_bias, second_bias = mlp.intercepts_
    spread, mean = model.transformer_.scale_[0], model.transformer_.mean_[0]
    network = two_layers(*first.shape)
    layers = {
        "0.weight": (first / scaler.scale_[:, None]).T,
        "0.bias": first_bias - (scaler.mean_ / scaler.scale_) @ first,
        "2.weight": second.T * spread,
        "2.bias": second_bias * spread + mean,
    }
    network.load_state_dict({name: torch.from_numpy(values).float() for name, values in layers.items()})
    return network
