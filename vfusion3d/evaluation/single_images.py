"""The paper's test on single images (section 4.2): one picture in, a full turn out, judged by CLIP.

There is no truth to compare with, so each view of the turn is compared with two things that are known: the caption
(CLIP text similarity) and the input picture (CLIP image similarity). Tables 1 and 2 are this test; the ablations
(section 4.3) run it on the pictures of the text-to-3D prompts.

A method is a function from a square picture (1, 3, H, W) in [0, 1] on white to the views of a full turn around what it
reconstructs, (V, 3, size, size). What is rendered already, by whatever program, takes part as a mapping from an item's
key to its views (`methods.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.cameras import ORBIT_DISTANCE, default_intrinsics, look_at_origin, orbit_cameras, sphere_position
from vfusion3d.data.images import resize, uniform_frames
from vfusion3d.evaluation.protocol import Predictor, azimuths_away, model_predictor
from vfusion3d.runs.progress import tqdm

if TYPE_CHECKING:
    from vfusion3d.foundations.clip import Clip
    from vfusion3d.foundations.text_to_image import TextToImage
    from vfusion3d.model.vfusion3d import VFusion3D

ORBIT_VIEWS = 8
AT_ONCE = 64  # input pictures that CLIP looks at together
PROMPT_STREAM = 402  # beside a run's seed: no other step draws these random numbers

Method = Callable[[Float[Tensor, "1 3 side side"]], Float[Tensor, "views 3 size size"]]
Turns = Mapping[str, Float[Tensor, "views 3 size size"]]


@torch.no_grad()
def evaluate_single_images(
    methods: Mapping[str, Method | Turns],
    images: Float[Tensor, "n 3 side side"],
    captions: Sequence[str],
    clip: "Clip",
    *,
    keys: Sequence[str],
    size: int,
    views: int | None = None,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Mean CLIP similarity of each method's views with the caption and with the input picture (section 4.2).

    images: in [0, 1] on white, one for each of `captions` and `keys`; one without a caption ("") has no similarity with
    it (nan). size: pixels of the compared views. views: compare so many of a turn, at equal distances; by default all.
    device: where the methods get their pictures.

    Returns one row per item and method: `method`, `key`, `caption`, `views` (how many were compared), `clip_text` and
    `clip_image`, each the mean over the views of a cosine in [-1, 1].
    Raises ValueError for no images, numbers that do not match, two equal keys, and a method whose views have the wrong
    shape or are not finite; what is wrong is named by its method and key.
    """
    if not len(images) == len(captions) == len(keys) > 0:
        raise ValueError(f"{len(images)} images, {len(captions)} captions, {len(keys)} keys: give one of each an item")
    if len(set(keys)) < len(keys):
        raise ValueError(f"two items share a key in {', '.join(keys)}")
    read = clip.text_features(captions).cpu()
    read[[not caption for caption in captions]] = torch.nan
    seen = torch.cat([clip.image_features(one.to(device)).cpu() for one in resize(images, size).split(AT_ONCE)])
    rows = []
    with tqdm(total=len(keys) * len(methods), desc="single images", unit="turn") as bar:
        for name, method in methods.items():
            for index, key in enumerate(keys):
                turn = method[key] if isinstance(method, Mapping) else method(images[index : index + 1].to(device))
                _check(turn, size, name, key)
                turn = turn[uniform_frames(len(turn), min(views or len(turn), len(turn)))]
                features = clip.image_features(turn.float().to(device)).cpu()
                known = {"method": name, "key": key, "caption": captions[index], "views": len(turn)}
                for metric, target in (("clip_text", read[index]), ("clip_image", seen[index])):
                    known[metric] = (features @ target).mean().item()
                rows.append(known)
                bar.update()
    return pd.DataFrame(rows)


def orbit_of(
    model: "VFusion3D", *, size: int, views: int = ORBIT_VIEWS, elevation: float | None = None, away: bool = False
) -> Method:
    """VFusion3D as a method: its reconstruction from `views` uniform azimuths, the first the picture's own.

    away: from `protocol.azimuths_away`, none of them near the picture's own. elevation: radians, of the picture's
    camera and of the orbit; by default what the weights were trained for, as is the distance of the picture's camera
    (`pipeline.py` assumes the same).
    """
    elevation = model.config.source_elevation if elevation is None else elevation
    distance = model.config.source_distance
    options = {"size": size, "views": views, "elevation": elevation, "distance": distance, "away": away}
    return around(model_predictor(model), **options)


def around(
    predict: Predictor,
    *,
    size: int,
    views: int = ORBIT_VIEWS,
    elevation: float,
    distance: float = ORBIT_DISTANCE,
    away: bool = False,
) -> Method:
    """A method from what the 3D protocol evaluates (`protocol.Predictor`): nobody knows a picture's camera, so it is
    taken to stand at azimuth 0, `elevation` (radians) and `distance`. The orbit has the same elevation. away: see
    `orbit_of`."""
    source = look_at_origin(sphere_position(0.0, elevation, distance)[None]), default_intrinsics(1)
    cameras = orbit_cameras(views, elevation)
    if away:
        cameras = look_at_origin(sphere_position(torch.from_numpy(azimuths_away(views)), elevation))
    orbit = cameras[None], default_intrinsics(1, views)

    @torch.no_grad()
    def turn(image: Float[Tensor, "1 3 side side"]) -> Float[Tensor, "views 3 size size"]:
        camera, wanted = (tuple(part.to(image.device) for part in pair) for pair in (source, orbit))
        return predict(image, camera, *wanted, size)[0]

    return turn


def prompt_images(
    draw: "TextToImage", prompts: Sequence[str], seed: int, size: int
) -> Float[Tensor, "prompts 3 size size"]:
    """What the text-to-image role draws for each prompt (section 4.2), in [0, 1], on the CPU.

    draw: the role. Each picture has random numbers of its own, so the first ten of forty are those of ten prompts.
    """
    drawn = [torch.zeros(0, 3, size, size)]
    for index, prompt in enumerate(prompts):
        own = np.random.default_rng([seed, index, PROMPT_STREAM])
        drawn.append(draw([prompt], torch.Generator().manual_seed(int(own.integers(2**63))), size))
    return torch.cat(drawn)


def _check(views: Tensor, size: int, method: str, key: str) -> None:
    if views.ndim != 4 or views.shape[1:] != (3, size, size) or not len(views):
        raise ValueError(f"{method} returned {tuple(views.shape)} for {key}, not some views (V, 3, {size}, {size})")
    if not views.isfinite().all():
        raise ValueError(f"{method} returned pixels that are not finite for {key}")
