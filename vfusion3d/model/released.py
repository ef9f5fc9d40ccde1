"""Reading the weights that the authors published (`facebook/vfusion3d`, CC-BY-NC, not part of this project).

Our modules carry the released names, so loading is reading the sizes off the tensors' shapes and checking the rest.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vfusion3d.foundations.loading import hub_folder
from vfusion3d.model.check import CheckpointError, not_a_folder
from vfusion3d.runs.reading import ReadingError, check_tensors, read_tensors

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")
WRAPPER = "model_state_dict"  # the checkpoint on the authors' drive holds its tensors under this name


def load_released(
    model_class, source, *, encoder_heads: int = 12, transformer_heads: int = 16, samples_per_ray: int = 128
):
    """A model with the released weights; every size comes from the tensors' shapes.

    source: a hub name (NAME or NAME@REVISION), a folder, a file (safetensors, or the authors' torch file, read with
    weights_only=True), or a state dict with the released names. encoder_heads, transformer_heads, samples_per_ray: what
    shapes do not tell.
    Raises CheckpointError that lists missing, extra and misshapen tensors, and where the file cannot be had or read.
    """
    tensors = dict(source) if isinstance(source, Mapping) else _read(source)
    named = source if isinstance(source, str | Path) else "the state dict"
    tensors = tensors.get(WRAPPER, tensors) if isinstance(tensors, Mapping) else tensors
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{named} holds no state dict, tensors by name: these are not VFusion3D weights")
    config = _config(tensors)
    for name, count, width in (
        ("encoder_heads", encoder_heads, config["encoder_width"]),
        ("transformer_heads", transformer_heads, config["width"]),
    ):
        if width % count:
            raise CheckpointError(f"{count} heads do not divide a width of {width}: give the right {name}")
    config |= {"encoder_heads": encoder_heads, "heads": transformer_heads, "samples_per_ray": samples_per_ray}
    try:
        model = model_class(**config)
    except ValueError as error:
        raise CheckpointError(f"{named}: {error}") from error
    try:
        check_tensors(tensors, {name: tuple(value.shape) for name, value in model.state_dict().items()}, named)
    except ReadingError as error:
        raise CheckpointError(str(error)) from error
    model.load_state_dict(tensors)
    return model.eval()


def _config(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"these are not VFusion3D weights: {name} is missing, which tells the model's size")
        found = tuple(tensors[name].shape)
        if len(found) != axes:
            raise CheckpointError(f"these are not VFusion3D weights: shape of {name}: {found}, expected {axes} axes")
        return found

    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for name in tensors if (m := re.match(pattern, name))), default=-1)

    encoder_width, _, patch, _ = shape("encoder.model.embeddings.patch_embeddings.projection.weight", 4)
    _, positions, _ = shape("encoder.model.embeddings.position_embeddings", 3)
    width, channels, _, _ = shape("transformer.deconv.weight", 4)
    _, triplane_tokens, _ = shape("transformer.pos_embed", 3)
    return {
        "image_size": 512,
        "patch_size": patch,
        "position_grid": round((positions - 1) ** 0.5),
        "encoder_width": encoder_width,
        "encoder_layers": count(r"encoder\.model\.encoder\.layer\.(\d+)\."),
        "camera_width": shape("camera_embedder.mlp.0.weight", 2)[0],
        "width": width,
        "layers": count(r"transformer\.layers\.(\d+)\."),
        "triplane_size": round((triplane_tokens / 3) ** 0.5),
        "triplane_channels": channels,
    }


def _read(source: str | Path) -> dict[str, Tensor]:
    path = Path(source)
    if path.is_dir():
        path = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
        if path is None:
            raise CheckpointError(f"{source} holds none of {', '.join(WEIGHTS)}")
    elif not path.is_file():
        if reason := not_a_folder(str(source).partition("@")[0]):
            raise CheckpointError(f"{source}: {reason}")
        try:
            path = hub_folder(str(source), WEIGHTS[:1]) / WEIGHTS[0]
        except OSError as error:
            raise CheckpointError(
                f"{error}. Offline, download the weights elsewhere and give the file's path"
            ) from error
    try:
        if path.suffix == ".safetensors":
            return read_tensors(path, "download it again")[0]
        return torch.load(path, map_location="cpu", weights_only=True)
    except ReadingError as error:
        raise CheckpointError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # each of the two libraries has several of its own
        raise CheckpointError(f"{path} cannot be read as weights: {error}") from error
