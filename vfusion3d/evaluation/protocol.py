"""The paper's test on unseen 3D objects (section 4.3): one view in, 32 novel views out, against the ground truth.

An object is rendered from `TEST_VIEWS` = 33 cameras, so that exactly the paper's 32 remain when one is the input; the
input view is never compared. A set rendered from fewer cameras still works (32 stored views leave 31 novel ones), and
the table's column `views` says how many were compared. Which view is the input is drawn anew for every object, and is
the same for every method that is evaluated in one call.

Every method is a `Predictor`, so the model and the baselines that keep it honest take the same road:

    predict(image, (cam2world, intrinsics), wanted_cam2world, wanted_intrinsics, size) -> rgb

    image              (B, 3, H, W)  input view on white, in [0, 1], at the stored size
    cam2world          (B, 3, 4)     where the input was seen from, at azimuth 0; intrinsics (B, 4)
    wanted_cam2world   (B, V, 3, 4)  the novel views, in the same turned world; wanted_intrinsics (B, V, 4)
    rgb                (B, V, 3, size, size) in [0, 1] on white
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.cameras import (
    ORBIT_DISTANCE,
    camera_vector,
    default_intrinsics,
    look_at_origin,
    sphere_position,
    turn_to_input,
)
from vfusion3d.data.images import on_white, resize
from vfusion3d.data.views import NOVEL_VIEWS
from vfusion3d.evaluation.metrics import PerceptualDistance, lpips, psnr, ssim
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.ranges import check_ranges

if TYPE_CHECKING:
    from vfusion3d.data.shards import MultiviewSample, MultiviewShards
    from vfusion3d.foundations.clip import Clip
    from vfusion3d.model.vfusion3d import VFusion3D

NEAREST = 30  # degrees between the input and the nearest of a few novel views
METRIC_CHUNK = 8  # views whose metrics are computed at once: bounds the memory of the perceptual trunk

Predictor = Callable[[Tensor, tuple[Tensor, Tensor], Tensor, Tensor, int], Tensor]

SMALLEST = 32  # pixels: below, AlexNet has nothing left to look at


def evaluate_3d(
    predict: Predictor | Mapping[str, Predictor],
    shards: "MultiviewShards | Sequence[MultiviewSample]",
    *,
    size: int,
    perceptual: PerceptualDistance,
    generator: np.random.Generator,
    clip: "Clip | None" = None,
    views: int = NOVEL_VIEWS,
    input_view: int | None = None,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """The paper's 3D evaluation: render up to `views` novel views of every object from one input view, and compare.

    predict: one method, or several by name; all of them see the same inputs.
    size: pixels of the compared views; larger stored views are reduced to it.
    perceptual: the LPIPS role, living on `device`, where the metrics are computed and the methods get their inputs.
    clip: the CLIP role; with it, each view is compared with the object's caption and with the input view (section 4.2).
    generator: draws each object's input view, one number an object whatever the number of views, so that the same seed
        gives the same inputs; ignored where `input_view` names one stored view for all objects.

    Returns one row per object and method: `method`, `key`, `category` (empty if the metadata has none), `input_view`,
    `views` (how many were compared) and `psnr`, `ssim`, `lpips` (with clip also `clip_text`, `clip_image`), each the
    mean over the object's novel views.
    Raises ValueError for views under 32 pixels, an empty set, an object with a single view, stored views smaller than
    `size`, an `input_view` that an object does not have, and a method whose result has the wrong shape or is not
    finite.
    """
    methods = predict if isinstance(predict, Mapping) else {"VFusion3D": predict}
    check_ranges(size=size, views=views)
    if size < SMALLEST:
        raise ValueError(f"LPIPS needs views of at least {SMALLEST} pixels, not {size}")
    if len(shards) == 0:
        raise ValueError("the test set has no objects: render it first")
    draws = generator.random(len(shards))
    rows = []
    for index in tqdm(range(len(shards)), desc="3D evaluation", unit="object"):
        sample = shards[index]
        chosen = _input_view(sample, draws[index], input_view)
        novel = novel_views(len(sample.rgba), chosen, views)
        image, camera, cam2world, intrinsics, truth = question(sample, chosen, novel, size, device)
        targets = {} if clip is None else _clip_targets(sample.caption, resize(image, size), clip)
        for method, ask in methods.items():
            with torch.no_grad():
                rgb = ask(image, camera, cam2world, intrinsics, size).to(device)
                _check_prediction(rgb, truth, method, sample.key)
                scores = _scores(rgb[0].float(), truth, perceptual)
                if clip is not None:
                    seen = clip.image_features(rgb[0].float())
                    scores |= {name: (seen @ target).mean().item() for name, target in targets.items()}
            known = {"method": method, "key": sample.key, "category": sample.metadata.get("category", "")}
            rows.append({**known, "input_view": chosen, "views": len(novel), **scores})
    return pd.DataFrame(rows)


def novel_views(stored: int, input_view: int, views: int = NOVEL_VIEWS) -> list[int]:
    """Indices of the novel views among `stored` views of an orbit: all but the input, from its neighbour on.

    If more than `views` remain, `views` of them evenly spread over what lies at least `NEAREST` degrees from the input:
    nearer to it the input itself is the best answer, and a few such views would count for much.
    """
    others = [(input_view + step) % stored for step in range(1, stored)]
    if views >= len(others):
        return others
    turns = 360 / stored * np.arange(1, stored)
    away = np.flatnonzero(np.minimum(turns, 360 - turns) >= NEAREST - 1e-6)
    away = away if len(away) >= views else np.arange(len(others))
    chosen = away[((np.arange(views) + 0.5) * len(away) / views).astype(int)]
    return [others[place] for place in chosen]


def azimuths_away(views: int) -> Float[np.ndarray, "views"]:
    """Azimuths of that many views, radians, evenly over what lies at least `NEAREST` degrees from the input at 0."""
    return np.radians(NEAREST + (np.arange(views) + 0.5) * (360 - 2 * NEAREST) / views)


def model_predictor(model: "VFusion3D") -> Predictor:
    """VFusion3D as a `Predictor`: it sees the input view at its own image size with the true camera of that view.

    Weights that know one camera only are told that one whatever is true, and the world is turned until the true camera
    looks as that one does, so that the wanted views stand to the input as they should. The authors' are such: their
    camera stands at distance 1, where that of all our data stands at 1.5, and at elevation 0.
    """
    config = model.config
    own = look_at_origin(sphere_position(0.0, config.source_elevation, config.source_distance))
    fixed = abs(config.source_distance - ORBIT_DISTANCE) > 1e-3

    @torch.no_grad()
    def predict(image, input_camera, cam2world, intrinsics, size):
        if fixed:
            turn = own[:, :3].to(cam2world) @ input_camera[0][..., :3].mT
            cam2world = turn[:, None] @ cam2world
            input_camera = own.to(cam2world).expand(len(image), 3, 4), default_intrinsics(len(image)).to(cam2world)
        camera = camera_vector(*input_camera).to(model.device, model.dtype)
        planes = model(resize(image, config.image_size).to(model.device, model.dtype), camera)
        rendering = model.render(planes, cam2world.to(model.device), intrinsics.to(model.device), size)
        return rendering.rgb.float().clamp(0, 1)

    return predict


def _input_view(sample: "MultiviewSample", draw: float, fixed: int | None) -> int:
    stored = len(sample.rgba)
    if stored < 2:
        raise ValueError(f"object {sample.key} has {stored} view: one goes in and at least one has to be compared")
    if fixed is None:
        return int(draw * stored)
    if not 0 <= fixed < stored:
        raise ValueError(f"input_view is {fixed}, but object {sample.key} has the views 0 to {stored - 1}")
    return fixed


def question(sample: "MultiviewSample", chosen: int, novel: list[int], size: int, device: torch.device | str):
    """What a method is asked of a sample: the arguments of a `Predictor` but the last, and the truth.

    chosen, novel: the stored views that go in and that are wanted. Returns image (1, 3, H, W), its camera, the wanted
    cameras' matrices and intrinsics, and the truth (V, 3, size, size), on the device. Raises ValueError where the
    stored views are smaller than `size` pixels.
    """
    stored = min(sample.rgba.shape[-2:])
    if size > stored:
        raise ValueError(
            f"object {sample.key} is stored at {stored} pixels, which cannot judge views of {size}: "
            f"evaluate at {stored} or less, or render the test set larger"
        )
    images = on_white(sample.rgba[[chosen, *novel]].to(device))
    turned = turn_to_input(sample.cam2world, sample.cam2world[chosen]).to(device)
    intrinsics = sample.intrinsics.to(device)
    camera = (turned[chosen][None], intrinsics[chosen][None])
    return images[:1], camera, turned[novel][None], intrinsics[novel][None], resize(images[1:], size)


def _check_prediction(rgb: Tensor, truth: Tensor, method: str, key: str) -> None:
    if rgb.shape != (1, *truth.shape):
        raise ValueError(f"{method} returned {tuple(rgb.shape)} for object {key}, not {(1, *truth.shape)}")
    if not rgb.isfinite().all():
        raise ValueError(f"{method} returned pixels that are not finite for object {key}")


def _scores(rgb: Tensor, truth: Tensor, perceptual: PerceptualDistance) -> dict[str, float]:
    chunks = [
        torch.stack([psnr(ours, true), ssim(ours, true), lpips(perceptual, ours, true)])
        for ours, true in zip(rgb.split(METRIC_CHUNK), truth.split(METRIC_CHUNK), strict=True)
    ]
    return dict(zip(("psnr", "ssim", "lpips"), torch.cat(chunks, dim=1).double().mean(dim=1).tolist(), strict=True))


def _clip_targets(caption: str, image: Float[Tensor, "1 3 size size"], clip: "Clip") -> dict[str, Float[Tensor, "D"]]:
    """The features that those of a view are compared with; not a number for an object without a caption."""
    seen = clip.image_features(image)[0]
    read = clip.text_features([caption])[0].to(seen) if caption else torch.full_like(seen, math.nan)
    return {"clip_text": read, "clip_image": seen}
