"""Sizes and weights of VFusion3D are looked at before anything is allocated: a config may hold any number."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch

from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.reading import ReadingError, check_tensors, read_json, read_tensors, read_value

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl")  # of files; no name on the hub ends so
MOST_SAMPLES = 4096  # of a ray
LAYER = 2**16  # what the modules of a layer take by themselves, in numbers
SHARDED = f"{WEIGHTS}.index.json"  # what diffusers writes in place of one file over 10 GB


class CheckpointError(ReadingError):
    """Weights that cannot be used; the message names the file, and the key or the tensors."""


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments of `VFusion3D` that make no model, or one that the machine cannot hold."""
    for name, value in sizes.items():
        if name[0] == "_" or name in ("source_elevation", "radius"):  # diffusers keeps notes of its own
            continue
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, not {value}")
    if sizes["image_size"] < sizes["patch_size"]:
        raise ValueError(f"image_size {sizes['image_size']} is below patch_size {sizes['patch_size']}")
    for width, heads in (("encoder_width", "encoder_heads"), ("width", "heads")):
        if sizes[width] % sizes[heads]:
            raise ValueError(f"{heads} {sizes[heads]} does not divide {width} {sizes[width]}")
    if sizes["samples_per_ray"] % 2 or sizes["samples_per_ray"] > MOST_SAMPLES:
        raise ValueError(f"samples_per_ray must be even and {MOST_SAMPLES} at most, not {sizes['samples_per_ray']}")
    if not abs(sizes["source_elevation"]) < math.pi / 2:
        raise ValueError(f"source_elevation must be below 90 degrees, not {sizes['source_elevation']} radians")
    if sizes["radius"] is not None and not 0 < sizes["radius"] < math.inf:
        raise ValueError(f"radius must be above 0, not {sizes['radius']}")
    check_memory("a model of these sizes (width, layers, encoder_*, triplane_*)", 4 * parameters(sizes))
    check_memory(f"an image_size of {sizes['image_size']}", 4 * 4 * 3 * sizes["image_size"] ** 2)


def parameters(sizes: Mapping[str, Any]) -> int:
    """About how many numbers the weights are, and for each layer what a module takes by itself."""
    encoder, width, camera = sizes["encoder_width"], sizes["width"], sizes["camera_width"]
    positions = sizes["position_grid"] ** 2 + 3 * sizes["patch_size"] ** 2
    tokens = 3 * sizes["triplane_size"] ** 2 + 4 * sizes["triplane_channels"]
    layer = 14 * width**2 + 2 * width * encoder + 6 * width * camera + LAYER
    return (
        sizes["encoder_layers"] * (12 * encoder**2 + LAYER)
        + positions * encoder
        + sizes["layers"] * layer
        + tokens * width
        + camera**2
        + 64 * sizes["triplane_channels"]
    )


def check_folder(model_class: type, folder: Path) -> None:
    """Look at a folder of weights: the config's keys, types and sizes, then the names and shapes of the tensors.

    Raises CheckpointError that names the file, FileNotFoundError where one of the two is missing.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}: it is no folder of a VFusion3D model")
    try:
        config = read_json(folder / CONFIG, dict[str, Any], "copy the folder of weights again")
        wanted = {name: kind for name, kind in get_type_hints(model_class.__init__).items() if name != "return"}
        for name, value in config.items():
            if name in wanted:
                read_value(wanted[name], value, name)
            elif not name.startswith("_"):
                raise ReadingError(f"unknown key {name}")
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in model_class.from_config(config).state_dict().items()}
    except CheckpointError:
        raise
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if str(folder) in text else f"{folder / CONFIG}: {text}") from error
    if (folder / SHARDED).is_file():
        return
    if not (folder / WEIGHTS).is_file():
        there = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}" + (f"; {convert(there[0])}" if there else ""))
    tensors, _ = read_tensors(folder / WEIGHTS, "copy the folder of weights again")
    try:
        check_tensors(tensors, shapes, folder / WEIGHTS)
    except ReadingError as error:
        raise CheckpointError(str(error)) from error


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
