"""What a miniature can do, measured on objects it never saw: the numbers of `notebooks/A1`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vfusion3d import cameras
from vfusion3d.data.images import on_white, to_bytes
from vfusion3d.evaluation import metrics
from vfusion3d.foundations.image_to_video import VideoModel
from vfusion3d.miniatures.perceptual import blurred, noisy, shuffled
from vfusion3d.world.captions import with_article
from vfusion3d.world.catalogue import DRAWN, ObjectSpec
from vfusion3d.world.motion import motion_bucket, motion_of

ASIDE = math.radians(5)
AMOUNTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Probe:
    """Unseen objects on white, each from a random side and from a little further along the orbit."""

    views: Float[Tensor, "objects 3 size size"]
    aside: Float[Tensor, "objects 3 size size"]
    categories: list[str]
    captions: list[str]


def render_probe(per_category: int, seed: int, size: int = 64, aside: float = ASIDE) -> Probe:
    """`per_category` objects of each category, as 3D data shows them: elevation in [0, pi/4], distance 1.5.

    aside: radians between the two sides that each is shown from.
    """
    from vfusion3d.data.render import render_views
    from vfusion3d.world.objects import build_mesh, describe, sample_object

    shown: list[Tensor] = []
    specs: list[ObjectSpec] = []
    for index in range(per_category * len(DRAWN)):
        rng = np.random.default_rng([seed, index])
        spec = sample_object(rng, (DRAWN[index % len(DRAWN)],))
        azimuth = rng.uniform(-math.pi, math.pi)
        elevation = rng.uniform(0, cameras.HIGHEST_ELEVATION)
        where = cameras.sphere_position(torch.tensor([azimuth, azimuth + aside]), elevation)
        rendered = render_views(build_mesh(spec), cameras.look_at_origin(where), cameras.INTRINSICS, size).rgba
        shown.append(on_white(torch.from_numpy(rendered).permute(0, 3, 1, 2)))
        specs.append(spec)
    views = torch.stack(shown)
    return Probe(views[:, 0], views[:, 1], [spec.category for spec in specs], [describe(spec) for spec in specs])


def zero_shot_accuracy(clip, images: Float[Tensor, "n 3 h w"], categories: Sequence[str]) -> float:
    """Share of images whose category CLIP names: the nearest of "a photo of a mug", ..."""
    return float(np.mean(np.array(named_by(clip, images)) == np.array(categories)))


def named_by(clip, images: Float[Tensor, "n 3 h w"]) -> list[str]:
    """The category that CLIP sees in each image."""
    texts = clip.text_features([f"a photo of {with_article(name)}" for name in DRAWN])
    return [DRAWN[i] for i in (clip.image_features(images) @ texts.T).argmax(dim=1).tolist()]


def caption_accuracy(clip, images: Float[Tensor, "n 3 h w"], captions: Sequence[str], among: int = 100) -> float:
    """Share of images whose own caption CLIP finds among that many different ones, drawn in their order."""
    first = {caption: i for i, caption in reversed(list(enumerate(captions)))}
    order = np.random.default_rng(0).permutation(sorted(first.values()))
    groups = [order[start : start + among] for start in range(0, len(order) - among + 1, among)]
    if not groups:
        raise ValueError(f"{len(order)} different captions are fewer than {among}: give more objects")
    seen = clip.image_features(images)
    read = clip.text_features(list(captions))
    right = [(seen[group] @ read[group].T).argmax(dim=1).numpy() == np.arange(among) for group in groups]
    return float(np.mean(right))


def neighbour_accuracy(
    features: Callable[[Tensor], Tensor], gallery: Probe, probe: Probe, neighbours: int = 5
) -> float:
    """Share of probe images whose category most of their nearest gallery images have, by the features' cosine."""
    classifier = KNeighborsClassifier(neighbours, metric="cosine")
    classifier.fit(features(gallery.views).numpy(), gallery.categories)
    return classifier.score(features(probe.views).numpy(), probe.categories)


def nearer_rate(distance: Callable[[Tensor, Tensor], Tensor], probe: Probe) -> float:
    """How often the same object from aside is nearer than another object of its category."""
    step = len(DRAWN)  # the probe goes through the categories in turn
    other = probe.views.roll(-step, dims=0)
    with torch.no_grad():
        return float((distance(probe.views, probe.aside) < distance(probe.views, other)).float().mean())


def degradation_curves(
    distance: Callable[[Tensor, Tensor], Tensor], images: Float[Tensor, "n 3 h w"], seed: int = 0
) -> pd.DataFrame:
    """The mean distance to ever stronger changes of the same images: a row an amount in [0, 1], a column a change."""
    curves = {}
    for change in (blurred, noisy, shuffled):
        curves[change.__name__] = []
        for amount in AMOUNTS:
            generator = torch.Generator().manual_seed(seed)
            changed = images if amount == 0 else torch.cat([change(image[None], amount, generator) for image in images])
            with torch.no_grad():
                curves[change.__name__].append(float(distance(images, changed).mean()))
    return pd.DataFrame(curves, index=pd.Index(AMOUNTS, name="amount"))


def psnr(images: Float[Tensor, "n 3 h w"], others: Float[Tensor, "n 3 h w"]) -> float:
    """Mean over the images of the peak signal-to-noise ratio in dB."""
    return float(metrics.psnr(images, others).mean())


def evaluate_videos(
    model: VideoModel, clip, images: Float[Tensor, "n 3 h w"], generator: torch.Generator, batch: int = 8, **options
) -> tuple[Float[Tensor, "n frames 3 h w"], dict[str, float]]:
    """Generate a video from each image: the videos, and how well they keep their first frame and their object.

    first_frame: PSNR of frame 1 to the image, dB. same_category: how often CLIP names frame 8 as frame 1. motion: in
    percent of the side a frame.
    """
    parts = [model.generate(images[i : i + batch], generator, **options) for i in range(0, len(images), batch)]
    videos = torch.cat(parts)
    same = np.array(named_by(clip, videos[:, 0])) == np.array(named_by(clip, videos[:, 7]))
    moved = [motion_of(to_bytes(video)) for video in videos]
    return videos, {
        "first_frame": psnr(videos[:, 0], images),
        "same_category": float(same.mean()),
        "motion": float(np.mean(moved)),
    }


def motion_by_bucket(
    model: VideoModel, images: Float[Tensor, "n 3 h w"], buckets: Sequence[int], seed: int = 0, **options
) -> pd.DataFrame:
    """The measured motion of videos from the same images and noise: a row a bucket; asked and measured as buckets."""
    rows = []
    for bucket in buckets:
        generator = torch.Generator().manual_seed(seed)
        videos = model.generate(images, generator, bucket=bucket, **options)
        motion = float(np.mean([motion_of(to_bytes(video)) for video in videos]))
        rows.append({"bucket": bucket, "motion": motion, "measured_bucket": motion_bucket(motion)})
    return pd.DataFrame(rows)
