"""One call from what a person has to what a person wants: pictures in, assets out.

The picture is cut out and framed (`preprocess.py`); the source camera is set at azimuth 0, at the distance that the
weights were trained for, and at an elevation that is given, estimated (`input_elevation.py`), or fixed, as in the
released code; the model predicts a triplane; an `Asset` holds it (`asset.py`).
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.cameras import camera_vector, default_intrinsics, look_at_origin, sphere_position
from vfusion3d.model.asset import Asset
from vfusion3d.model.input_elevation import bundled_estimator
from vfusion3d.model.preprocess import Box, ImageSource, prepare, source_name
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.progress import tqdm

ESTIMATED = ("mini", "base")  # weights of the world that the bundled estimator knows
Estimator = Callable[[Float[Tensor, "B 3 size size"]], Float[Tensor, " B"]]


class ImageTo3DPipeline:
    """Image to 3D (section 4.2). Made by `from_pretrained`, or around a `VFusion3D` at hand.

    elevation_estimator: pictures as the model sees them, (B, 3, size, size) on white, to elevations in radians, (B,);
    None: every picture is taken for one from the elevation that the weights were trained for.
    """

    def __init__(self, model: VFusion3D, elevation_estimator: Estimator | None = None):
        self.model = model.eval()
        self.elevation_estimator = elevation_estimator

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike = "mini",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        elevation_estimator: Estimator | Literal["auto"] | None = "auto",
    ) -> "ImageTo3DPipeline":
        """Load weights: "mini" or "base" (bundled), a folder, or a hub name ("facebook/vfusion3d": the authors').

        device: by default a GPU if there is one. dtype: of the transformer, by default float32; bfloat16 is faster
        where the machine has instructions for it. What the renderer computes stays in float32. elevation_estimator:
        "auto" is the bundled one for the bundled weights, which it helps (notebook 07), and none for others, whose
        pictures it does not know; see the class. Raises ValueError for a device that is not there.
        """
        if device is not None:
            check_device(device)
        model = VFusion3D.from_pretrained(name)
        if elevation_estimator == "auto":
            elevation_estimator = bundled_estimator() if name in ESTIMATED else None
        return cls(model, elevation_estimator).to(device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "ImageTo3DPipeline":
        """Move the model, and return the pipeline."""
        self.model.to(device=device, dtype=dtype)
        return self

    @torch.no_grad()
    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource],
        elevation: float | Sequence[float] | None = None,
        *,
        background: str = "auto",
        border: float = 0.2,
        box: Box | None = None,
        opacity: float | None = None,
        batch_size: int = 4,
        progress: bool = False,
    ) -> Asset | list[Asset]:
        """Reconstruct one picture (an Asset) or several (a list of them, in their order).

        images: paths, bytes, PIL images, arrays or tensors (see `preprocess.load_image`); a list or tuple is several.
        elevation: of the camera over the object's horizon, radians, one for all or one each; by default it is estimated
        where the pipeline has an estimator, else what the weights were trained with. background, border, box,
        opacity: see `preprocess.prepare`; one for all pictures. background="keep" takes them as they are framed.
        batch_size: pictures that go through the model at once. progress: show a bar.
        Raises ImageError for the first picture that cannot be used, before any goes through the model.
        """
        many = isinstance(images, list | tuple)
        sources = list(images) if many else [images]
        given = None if elevation is None else _one_each(elevation, len(sources))
        size = self.model.config.image_size
        prepared = [prepare(source, size, background, border, box, opacity) for source in sources]
        elevations = given or self.elevations([p.image for p in prepared])
        assets = []
        with tqdm(total=len(sources), desc="reconstruct", unit="image", disable=not progress) as bar:
            for start in range(0, len(sources), batch_size):
                part = slice(start, start + batch_size)
                planes = self._predict([p.image for p in prepared[part]], elevations[part])
                for i, p in enumerate(prepared[part]):
                    seen_from = elevations[start + i]
                    name = source_name(sources[start + i])
                    own = planes[i : i + 1].clone()
                    assets.append(Asset(self.model, own, p.image, p.box, p.background, seen_from, name, p.notices))
                    bar.update()
        return assets if many else assets[0]

    def elevations(self, images: Sequence[Float[Tensor, "3 size size"]]) -> list[float]:
        """From how far above its horizon each object is seen, radians: estimated, or what the weights know.

        images: as the model sees them (`preprocess.prepare`).
        """
        if self.elevation_estimator is None:
            return [self.model.config.source_elevation] * len(images)
        return [e for image in images for e in self.elevation_estimator(image[None]).tolist()]

    def _predict(self, images: list[torch.Tensor], elevations: list[float]) -> torch.Tensor:
        cam2world = look_at_origin(sphere_position(0.0, torch.tensor(elevations), self.model.config.source_distance))
        camera = camera_vector(cam2world, default_intrinsics(len(images)))
        device, dtype = self.model.device, self.model.dtype
        return self.model(torch.stack(images).to(device, dtype), camera.to(device, dtype))


def check_device(device: str | torch.device) -> None:
    """Raises ValueError, in words of what is on this machine, for a device that is not there."""
    try:
        kind, index = (wanted := torch.device(device)).type, wanted.index or 0
    except RuntimeError as error:
        raise ValueError(f"device {device}: there is no such kind; use cpu, cuda, cuda:1 or mps") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: there is no GPU here that PyTorch can use; use cpu")
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise ValueError(f"device {device}: there are {torch.cuda.device_count()} GPUs here, the first is cuda:0")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: there is no Apple GPU here that PyTorch can use; use cpu")
    if kind not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {device}: nothing is computed there; use cpu, cuda, cuda:1 or mps")


def _one_each(elevation: float | Sequence[float], count: int) -> list[float]:
    elevations = [float(e) for e in (elevation if isinstance(elevation, list | tuple) else [elevation] * count)]
    if len(elevations) != count:
        raise ValueError(f"{len(elevations)} elevations for {count} images: give one for all or one each")
    if not all(abs(e) < math.pi / 2 for e in elevations):
        raise ValueError(f"elevation={elevation}: must be within -pi/2 and pi/2 radians (20 degrees: 0.35)")
    return elevations
