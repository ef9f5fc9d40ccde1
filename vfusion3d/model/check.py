"""A folder of weights is looked at before anything is allocated: a config may hold any number."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from vfusion3d.model.sizes import Config
from vfusion3d.runs.reading import ReadingError, check_tensors, read_json, read_tensors, read_value

if TYPE_CHECKING:
    from torch import Tensor, nn

Model = TypeVar("Model", bound="nn.Module")
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl")  # of files; no name on the hub ends so


class CheckpointError(ReadingError):
    """Weights that cannot be used; the message names the file, and the key or the tensors."""


def check_folder(model_class: type[Model], folder: Path, **changed: Any) -> "tuple[Model, dict[str, Tensor]]":
    """Look at a folder of weights: the config's keys, types and sizes, then the names and shapes of the tensors.

    changed: fields of `Config` to have in place of the folder's. Returns the model without its weights (on the meta
    device), and these. Raises CheckpointError that names the file, FileNotFoundError where one of the two is missing.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}: it is no folder of a VFusion3D model")
    try:
        config = read_json(folder / CONFIG, dict[str, Any], "copy the folder of weights again")
        sizes = read_value(Config, {name: value for name, value in config.items() if name[:1] != "_"})
        sizes = replace(sizes, **changed)
        with torch.device("meta"):
            model = model_class(**asdict(sizes))
    except CheckpointError:
        raise
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if str(folder) in text else f"{folder / CONFIG}: {text}") from error
    if not (folder / WEIGHTS).is_file():
        there = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}" + (f"; {convert(there[0])}" if there else ""))
    tensors, _ = read_tensors(folder / WEIGHTS, "copy the folder of weights again")
    try:
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        check_tensors(tensors, shapes, folder / WEIGHTS)
    except ReadingError as error:
        raise CheckpointError(str(error)) from error
    return model, tensors


def not_a_folder(name: str) -> str | None:
    """Why this is neither a folder here nor a name on the hub; None where it may be one of the hub."""
    path = Path(os.path.expanduser(name))
    if path.is_file():
        with open(path, "rb") as file:
            begin = file.read(2)
        if begin == b"PK" or begin[:1] == b"\x80":  # as torch.save and pickle begin
            return f"is a file, and {convert(path.name)}; then give its folder, with a {CONFIG}"
        return f"is a file; give the folder that save_pretrained made, with its {CONFIG}"
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.suffix in SUFFIXES:
        return "no such file or folder; check the path"
    return None


def convert(name: str) -> str:
    """What to do with a file that is a pickle, which may run anything when it is loaded."""
    return (
        f"{name} is a pickle, not safetensors, and is not loaded: convert it with "
        f"`safetensors.torch.save_file(torch.load({json.dumps(name)}, weights_only=True), {json.dumps(WEIGHTS)})`"
    )
