"""Measures what a unit of each step costs here, in CPU seconds: what vfusion3d/book/rates.yaml calls `core_seconds`.

    OMP_NUM_THREADS=1 python benchmarks/rates.py

CPU time of this process is counted, not the clock's: the numbers hold on a busy machine too. The first call of each
does not count.
"""

import math
import tempfile
import time
from itertools import islice

import cv2
import numpy as np
import torch

from vfusion3d import VFusion3D
from vfusion3d.cameras import default_intrinsics, orbit_cameras
from vfusion3d.data.images import on_white, to_bytes
from vfusion3d.data.render import render_views
from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.data.shards import MultiviewShards, encode_sample, encode_video
from vfusion3d.foundations.clip import clip
from vfusion3d.foundations.image_features import image_features
from vfusion3d.foundations.image_to_video import load_video_model
from vfusion3d.foundations.perceptual import perceptual_distance
from vfusion3d.foundations.prompt_filter import prompt_filter
from vfusion3d.foundations.saliency import saliency
from vfusion3d.foundations.text_to_image import text_to_image
from vfusion3d.runs.profiles import load_profile
from vfusion3d.training.losses import Losses
from vfusion3d.training.supervision import Supervision
from vfusion3d.video.corpus import read_captions
from vfusion3d.video.finetune import learn_temporal_only
from vfusion3d.world.objects import build_mesh, sample_object
from vfusion3d.world.sources import ProceduralObjects
from vfusion3d.world.web_captions import WEB_CAPTIONS

VIEWS = 16
profile = load_profile("laptop")
generator = torch.Generator().manual_seed(0)


def seconds(work, units: int, repeats: int = 3) -> float:
    """CPU seconds a unit: the median of some calls of `work`, each of which does `units`."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return float(np.median(found)) / units


def show(name: str, value: float, unit: str = "core seconds") -> None:
    print(f"{name}: {value:.3g} {unit}", flush=True)


def rendering() -> None:
    objects = [sample_object(np.random.default_rng([5, number])) for number in range(4)]
    cameras, intrinsics = orbit_cameras(VIEWS, 0.4), default_intrinsics(VIEWS)
    for size in (64, 128, 512):
        views = [render_views(build_mesh(spec), cameras, intrinsics, size).rgba for spec in objects]
        cost = seconds(
            lambda size=size: [render_views(build_mesh(spec), cameras, intrinsics, size) for spec in objects],
            len(objects) * VIEWS,
        )
        show(f"render a view of {size} pixels", cost)
        pictures = [to_bytes(on_white(torch.from_numpy(rgba).movedim(-1, 1))) for rgba in views]
        stored = {
            "  as RGBA": [encode_sample(rgba, cameras, intrinsics, "", {}) for rgba in views],
            "  as a frame of a video": [encode_video(frames, "", {}) for frames in pictures],
            "  its mask": [{"": cv2.imencode(".png", view[..., 3])[1].tobytes()} for rgba in views for view in rgba],
        }
        for name, samples in stored.items():
            size_of_all = sum(len(part) for members in samples for part in members.values())
            show(name, size_of_all / len(objects) / VIEWS, "bytes")


def prompts() -> None:
    captions = list(islice(read_captions(WEB_CAPTIONS), 2000))
    choose = prompt_filter(profile)
    draw = text_to_image(profile)
    show("filter a caption", seconds(lambda: choose(captions), len(captions)))
    some = [decision.caption for decision in choose(captions) if decision.kept][:16]
    show("draw an image of 64 pixels", seconds(lambda: draw(some, generator, 64), len(some)))


def training() -> None:
    model = VFusion3D.from_pretrained("base").train()
    recipe = profile.training
    loss = Losses(recipe, perceptual_distance(profile))
    with tempfile.TemporaryDirectory() as folder:
        render_dataset(folder, ProceduralObjects(), recipe.batch_size, views=8, size=128, workers=1)
        data = Supervision(MultiviewShards(folder), recipe, model.config.image_size, total_steps=100)

        def step() -> None:
            loss(model, data.batch(99), generator)["loss"].backward()
            model.zero_grad()

        show("train VFusion3D on an object", seconds(step, recipe.batch_size))


def video() -> None:
    model = load_video_model(profile)
    learn_temporal_only(model)
    pictures = torch.rand(4, 3, 64, 64, generator=generator)
    latents = model.encode(pictures[:, None].expand(-1, 16, -1, -1, -1))
    condition = model.condition(pictures, [127] * 4, 7, generator)
    show(
        "fine-tune the video model",
        seconds(lambda: model.loss(model.network, latents, condition, generator).backward(), 4),
    )
    show("encode a video", seconds(lambda: model.encode(pictures[:, None].expand(-1, 16, -1, -1, -1)), 4))
    model.pipeline.unet.eval()
    steps = profile.video.inference_steps
    show(f"generate a video, {steps} steps", seconds(lambda: model.generate(pictures, generator, steps=steps), 4, 1))


def looking() -> None:
    pictures = torch.rand(64, 3, 64, 64, generator=generator)
    features = image_features(profile)
    eyes = clip(profile)
    masks = saliency(profile)
    with torch.no_grad():
        show("image features of a picture", seconds(lambda: features(pictures), 64))
        show("CLIP features of a picture", seconds(lambda: eyes.image_features(pictures), 64))
        show("a mask", seconds(lambda: masks(pictures), 64))
        model = VFusion3D.from_pretrained("mini").eval()
        planes = model(pictures[:1], torch.zeros(1, 16))
        cameras, intrinsics = orbit_cameras(8, math.pi / 8)[None], default_intrinsics(1, 8)
        show("a view of a mini model, 64 pixels", seconds(lambda: model.render(planes, cameras, intrinsics, 64), 8))
        distance = perceptual_distance(profile)
        show("LPIPS of a pair", seconds(lambda: distance(pictures[:8], pictures[8:16]), 8))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for measure in (rendering, prompts, training, video, looking):
        measure()
