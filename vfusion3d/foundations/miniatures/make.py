"""Make one miniature or all: train it in a folder of its own, and put what a role loads into `FOLDER/model`.

    for name in ORDER:
        make_miniature(name, "runs/web", "runs/miniatures", device="cpu")

Each can be interrupted at any moment and goes on where it stopped. `model` holds, in half precision and in the hub's
layout, what `vfusion3d/weights/ROLE` ships, with `training.json` (how, where and how long it learned) and `log.csv`.
"""

import json
import math
import os
import platform
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file

from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.clip import load_clip
from vfusion3d.foundations.image_to_video import load_stable_video_diffusion
from vfusion3d.foundations.miniatures import aesthetic, clip, features, perceptual, vae, video
from vfusion3d.foundations.miniatures.training import Training
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.loop import LOG, read_log

ORDER = ("clip", "image_features", "perceptual_distance", "vae", "image_to_video", "aesthetic_score")
TRAININGS = {
    "clip": clip.TRAINING,
    "image_features": features.TRAINING,
    "perceptual_distance": perceptual.NAMING,
    "vae": vae.TRAINING,
    "image_to_video": video.TRAINING,
    "aesthetic_score": aesthetic.TRAINING,
}
NOTE = "training.json"
LOGS = {"perceptual_distance": "run/trunk"}  # where the log of a run lies, if not in `run`


def make_miniature(
    name: str,
    data: str | Path,
    folder: str | Path,
    training: Training | None = None,
    *,
    start: str | Path | None = None,
    device: str | None = None,
    stop_after: float = math.inf,
) -> Path | None:
    """Train the miniature of a role (or "vae") on the web world in `data`; returns `folder/name/model` once done.

    image_to_video needs vae and clip in `folder`, aesthetic_score needs clip. start: the model folder of the
    same miniature, to go on from; by default it starts from nothing. stop_after: seconds. Raises ValueError
    for an unknown name, FileNotFoundError where one that it needs is missing.
    """
    if name not in ORDER:
        raise ValueError(f"there is no miniature {name!r}: the names are {', '.join(ORDER)}")
    folder = Path(folder)
    here, begun = folder / name, time.monotonic()
    final = here / "model"
    if final.is_dir():
        return final
    training = training or TRAININGS[name]
    partial = here / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    done = _train(
        name, data, folder, here, partial, training, {"start": start, "device": device, "stop_after": stop_after}
    )
    spent = _add_seconds(here / "seconds.json", time.monotonic() - begun)
    if not done:
        return None
    before = json.loads((Path(start) / NOTE).read_text())["trainings"] if start else []
    note = {
        **asdict(training),
        "data": [
            source.index["samples"] for source in (VideoShards(Path(data) / part) for part in ("pictures", "videos"))
        ],
        "hours": round(spent / 3600, 2),
        "machine": machine(),
    }
    (partial / NOTE).write_text(json.dumps({"miniature": name, "trainings": [*before, note]}, indent=2) + "\n")
    log = read_log(here / LOGS.get(name, "run"))
    log.iloc[:: max(1, len(log) // 200)].to_csv(partial / LOG, index=False, float_format="%.4g")
    os.replace(partial, final)
    return final


def machine() -> str:
    """What computes here, in a few words and without a name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} thread{'s'[: torch.get_num_threads() > 1]}"


def _train(name: str, data, folder: Path, here: Path, model: Path, training: Training, how: dict) -> bool:
    """Train, and write what the role loads to `model`; returns whether it is done."""
    run = here / "run"
    match name:
        case "clip":
            state = clip.train_clip(data, run, training, **how)
            if state is not None:
                clip.save_clip(state, model)
            return state is not None
        case "image_features":
            network = features.train_features(data, run, training, **how)
            if network is not None:
                torch.nn.Module.to(network, torch.float16).save_pretrained(model)
            return network is not None
        case "perceptual_distance":
            ranking = replace(
                perceptual.RANKING, steps=-(-training.steps // 4), batch_size=-(-training.batch_size // 2)
            )
            distance = perceptual.train_perceptual(data, run, training, ranking, **how)
            if distance is not None:
                PerceptualDistance(distance).save_pretrained(model, torch.float16)
            return distance is not None
        case "vae":
            network = vae.train_vae(data, run, training, **how)
            if network is not None:
                network.save_pretrained(model)
            return network is not None
        case "image_to_video":
            return _train_video(data, folder, run, model, training, how)
        case "aesthetic_score":
            head = aesthetic.train_aesthetic(data, run, load_clip(str(_needed(folder, "clip"))), training, **how)
            if head is not None:
                head.save_pretrained(model)
            return head is not None


def _train_video(data, folder: Path, run: Path, model: Path, training: Training, how: dict) -> bool:
    network = AutoencoderKLTemporalDecoder.from_pretrained(_needed(folder, "vae"))
    tower = load_file(_needed(folder, "clip") / "open_clip_model.safetensors")
    whole = video.new_video_model(network, tower, training.seed)
    if (start := how.pop("start")) is not None:
        whole.network.load_state_dict(load_stable_video_diffusion(start).network.state_dict())
    videos = VideoShards(Path(data) / "videos")
    encoded = video.encode_all(whole, videos, run.parent / "encoded.safetensors")
    done = video.train_video(whole, encoded, run, training, data=[videos.fingerprint], **how)
    if done:
        whole.save_pretrained(model, torch.float16)
        for file in (NOTE, LOG):  # the VAE ships inside the pipeline
            shutil.copy(_needed(folder, "vae") / file, model / "vae" / file)
    return done


def _needed(folder: Path, name: str) -> Path:
    path = folder / name / "model"
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: make the miniature {name} first")
    return path


def _add_seconds(path: Path, seconds: float) -> float:
    spent = seconds + (json.loads(path.read_text()) if path.exists() else 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spent))
    return spent
