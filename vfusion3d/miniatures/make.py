"""Make one miniature or all: train it in a folder of its own, and put what a role loads into `FOLDER/model`.

    for name in ORDER:
        make_miniature(name, "runs/web", "runs/miniatures", device="cpu")

Each can be interrupted at any moment and goes on where it stopped. `model` holds, in half precision and in the hub's
layout, what `vfusion3d/weights/ROLE` ships, with `training.json` (how, where and how long it learned) and `log.csv`.
"""

import json
import math
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers import AutoencoderKLTemporalDecoder
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.aesthetic_score import AestheticHead
from vfusion3d.foundations.clip import load_clip
from vfusion3d.foundations.image_to_video import StableVideoDiffusion
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.learning.loop import LOG, Lesson, fingerprint, read_log
from vfusion3d.miniatures import aesthetic, clip, features, perceptual, vae, video
from vfusion3d.miniatures.training import Training, learn
from vfusion3d.runs.claim import changes, save_whole, short_name
from vfusion3d.runs.reading import read_json, read_tensors

ORDER = ("clip", "image_features", "perceptual_distance", "vae", "image_to_video", "aesthetic_score")
NAMES = (*ORDER, "vae_decoder")  # the last one only goes on from a vae
TRAININGS = {
    "clip": clip.TRAINING,
    "image_features": features.TRAINING,
    "perceptual_distance": perceptual.NAMING,
    "vae": vae.TRAINING,
    "vae_decoder": vae.DECODER,
    "image_to_video": video.TRAINING,
    "aesthetic_score": aesthetic.TRAINING,
}
NOTE = "training.json"


class _Note(TypedDict):
    trainings: list[dict[str, Any]]


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

    image_to_video needs vae and clip in `folder`, aesthetic_score needs clip, vae_decoder (a vae whose decoder learns
    on alone) needs perceptual_distance. start: the model folder of the same miniature, for vae_decoder of a vae, to go
    on from; by default it starts from nothing. stop_after: seconds. Raises ValueError for an unknown name, for a
    vae_decoder without a start and where the folder holds one of another training, FileNotFoundError where one that it
    needs is missing.
    """
    if name not in NAMES:
        raise ValueError(f"there is no miniature {name!r}: the names are {', '.join(NAMES)}")
    if name == "vae_decoder" and start is None:
        raise ValueError("vae_decoder goes on from a vae: pass its model folder as start")
    folder = Path(folder)
    here = folder / name
    final = here / "model"
    training = training or TRAININGS[name]
    if final.is_dir():
        _check_training(final, training)
        return final
    until = time.monotonic() + stop_after
    lesson, save = _prepare(name, data, folder, training, start)
    settings = asdict(training)
    done = learn(lesson, training, here / "run", device=device, stop_after=until - time.monotonic())
    if done and name == "perceptual_distance":  # its second step
        weights = replace(perceptual.RANKING, steps=-(-training.steps // 4), batch_size=-(-training.batch_size // 2))
        settings["weights"] = asdict(weights)
        second = perceptual.ranking_lesson(data, lesson.model, weights)
        done = learn(second, weights, here / "weights", device=device, stop_after=until - time.monotonic())
    if not done:
        return None
    before = read_json(Path(start) / NOTE, _Note)["trainings"] if start else []
    parts = [Path(data) / part for part in ("pictures", "videos")]
    sources = [VideoShards(part) for part in parts if part.exists()]  # a video model learns from videos alone
    note = {
        **settings,
        "data": [len(source) for source in sources],
        "hours": round(training_hours(here), 2),
        "machine": machine(),
    }
    log = read_log(here / "run")

    def save_with_note(model: Path) -> None:
        save(model)
        (model / NOTE).write_text(json.dumps({"miniature": name, "trainings": [*before, note]}, indent=2) + "\n")
        log.iloc[:: max(1, len(log) // 200)].to_csv(model / LOG, index=False, float_format="%.4g")

    save_whole(save_with_note, final)
    return final


def _check_training(model: Path, training: Training) -> None:
    """Raise ValueError that names what differs where a finished miniature learned in another way."""
    known = read_json(model / NOTE, _Note)["trainings"][-1]
    kept = {name: value for name, value in known.items() if name not in ("weights", "data", "hours", "machine")}
    if changed := changes({"training": kept}, {"training": training}):
        raise ValueError(f"{model} was made with other settings ({'; '.join(changed)}): use another folder")


def machine() -> str:
    """What computes here, in a few words and without a name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} thread{'s'[: torch.get_num_threads() > 1]}"


def _prepare(name: str, data, folder: Path, training: Training, start) -> tuple[Lesson, Callable[[Path], None]]:
    """What a miniature learns from, and how what its role loads is written to a folder afterwards."""
    match name:
        case "clip":
            lesson = clip.clip_lesson(data, training, start)
            return lesson, lambda model: clip.save_clip(lesson.model.state_dict(), model)
        case "image_features":
            lesson = features.features_lesson(data, training, start)
            return lesson, lambda model: nn.Module.to(lesson.model.model, torch.float16).save_pretrained(model)
        case "perceptual_distance":
            lesson = perceptual.naming_lesson(data, training, start)
            return lesson, lambda model: _save_distance(lesson.model.distance[0], model)
        case "vae":
            lesson = vae.vae_lesson(data, training, start)
            return lesson, lambda model: _save_vae(lesson, model)
        case "vae_decoder":
            distance = PerceptualDistance(str(_needed(folder, "perceptual_distance")))
            lesson = vae.decoder_lesson(data, start, distance, training)
            return lesson, lambda model: lesson.model.save_pretrained(model)
        case "aesthetic_score":
            eyes = load_clip(str(_needed(folder, "clip")))
            lesson = aesthetic.aesthetic_lesson(data, eyes, training, start)
            return lesson, lambda model: _save_aesthetic_score(lesson.model, model)
        case "image_to_video":
            return _prepare_video(data, folder, training, start)


def _prepare_video(data, folder: Path, training: Training, start) -> tuple[Lesson, Callable[[Path], None]]:
    frozen = _needed(folder, "vae")
    tower = read_tensors(_needed(folder, "clip") / clip.WEIGHTS)[0]
    network = AutoencoderKLTemporalDecoder.from_pretrained(frozen)
    whole = video.new_video_model(network, tower, training.seed)
    if start is not None:
        whole.network.load_state_dict(StableVideoDiffusion.from_pretrained(start).network.state_dict())
    videos = VideoShards(Path(data) / "videos")
    made_of = videos.fingerprint + fingerprint(network) + fingerprint(whole.pipeline.image_encoder)
    encoded = video.encode_all(whole, videos, folder / "image_to_video" / f"encoded-{short_name(made_of)}.safetensors")

    def save(model: Path) -> None:
        whole.save_pretrained(model, torch.float16)
        for file in (NOTE, LOG):  # the VAE ships inside the pipeline
            shutil.copy(frozen / file, model / "vae" / file)

    return video.video_lesson(whole, videos, encoded, training), save


def _save_distance(distance, model: Path) -> None:
    perceptual.keep_positive(distance)
    PerceptualDistance(distance).save_pretrained(model, torch.float16)


def _save_vae(lesson: Lesson, model: Path) -> None:
    vae.scale_latents(lesson)
    lesson.model.save_pretrained(model)


def _needed(folder: Path, name: str) -> Path:
    path = folder / name / "model"
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: make the miniature {name} first")
    return path


def _save_aesthetic_score(head: AestheticHead, model: Path) -> None:
    head.save_pretrained(model)
    (model / "README.md").unlink()  # huggingface_hub's model card, which says nothing


def training_hours(folder: Path) -> float:
    """How long the runs in `folder` trained, by their logs for TensorBoard; each process that took part wrote one."""
    hours = 0.0
    for log in folder.rglob("events.out.tfevents.*"):
        times = [event.wall_time for event in EventFileLoader(str(log)).Load()]
        hours += (times[-1] - times[0]) / 3600
    return hours
