"""The networks of rembg, which say what of a picture is its object: U2-Net (Qin et al., 2020), IS-Net and others."""

import functools
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

if TYPE_CHECKING:
    from rembg.sessions.base import BaseSession

PHOTO_MODELS = ("isnet-general-use", "u2net")  # for photos, the better one first


def object_mask(session: "BaseSession", rgb: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width"]:
    """What the network takes for the object, in [0, 1]; nothing where it answers the same everywhere."""
    with np.errstate(divide="ignore", invalid="ignore"):  # rembg stretches its answer to [0, 1]
        mask = np.asarray(session.predict(Image.fromarray(rgb))[0], dtype=np.float32) / 255
    return mask


def rembg_session(source: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> "BaseSession":
    """A session of rembg: by its name ("u2net", downloaded if it has to be), a file NAME.onnx or a folder with one.

    device: a GPU is used where onnxruntime was built for one. dtype: does not matter, the file says it. Raises
    ValueError for a folder with no network or several, and for a name that rembg does not know.
    """
    import onnxruntime

    with _nothing_compiled():
        import rembg

    on_gpu = torch.device(device).type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    providers = [*(["CUDAExecutionProvider"] if on_gpu else []), "CPUExecutionProvider"]
    path = Path(source)
    if not path.exists():
        return rembg.new_session(source, providers=providers)
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if len(files) != 1:
        raise ValueError(f"{source} holds {len(files)} .onnx files, not one that is named after a model of rembg")
    with _weights_from(files[0].parent):
        return rembg.new_session(files[0].stem, providers=providers)


def photo_weights() -> Path | None:
    """The file of the first of `PHOTO_MODELS` that is on this machine already, where rembg looks."""
    home = Path.home()
    folders = [os.environ.get("U2NET_HOME"), os.environ.get("REMBG_HOME"), home / ".rembg", home / ".u2net"]
    if data := os.environ.get("XDG_DATA_HOME"):
        folders += [Path(data) / "rembg", Path(data) / ".u2net"]
    for model in PHOTO_MODELS:
        for folder in filter(None, folders):
            for file in (Path(folder) / "models" / model / f"{model}.onnx", Path(folder) / f"{model}.onnx"):
                if file.is_file():
                    return file
    return None


@functools.cache
def photo_session(weights: Path) -> "BaseSession":
    """The session of a file that `photo_weights` found, loaded once a process."""
    return rembg_session(str(weights))


@contextmanager
def _nothing_compiled():
    """rembg imports pymatting, of which nothing is used here, and numba would compile that for a minute."""
    import numba

    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 1
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = before


@contextmanager
def _weights_from(folder: str | Path):
    """rembg takes its weights from the folder that this variable names."""
    before = os.environ.get("U2NET_HOME")
    os.environ["U2NET_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["U2NET_HOME"]
        else:
            os.environ["U2NET_HOME"] = before
