"""What a variant is trained on: synthetic videos before or after the filter, perhaps of a video model of its own (4.3).

Which videos a part of the synthetic data holds is drawn with the variant's seed. The parts of one seed lie inside each
other, so that more data is the same data and more.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from vfusion3d.curation.curate import stored_labeller
from vfusion3d.curation.labels import label_videos
from vfusion3d.data.images import on_white
from vfusion3d.data.shards import MultiviewShards, VideoShards
from vfusion3d.data.subset import Subset
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.experiments.variants import FEWEST, Scaled
from vfusion3d.foundations.aesthetic_score import AestheticScore
from vfusion3d.foundations.loading import name_of
from vfusion3d.foundations.roles import Roles
from vfusion3d.learning.loop import remove_checkpoints
from vfusion3d.learning.processes import in_parts
from vfusion3d.runs import layout
from vfusion3d.runs.claim import Kind, claim_folder, write_whole
from vfusion3d.runs.lock import only_writer
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.reading import ReadingError, read_table, read_value
from vfusion3d.video.finetune import finetune_video_model
from vfusion3d.video.generate import generate_videos

PART_STREAM = 43  # beside a variant's seed: no other step draws these random numbers
SCORES = Kind("aesthetic scores", ("scores.csv",))
SEEN_VIEWS = 8  # of a 3D object, for its aesthetic score


@dataclass(frozen=True)
class TrainingData:
    """What a variant is trained on; of how many generated videos, and how many passed the filter (None: no videos)."""

    shards: MultiviewShards | SyntheticShards | Subset
    generated: int | None = None
    good: int | None = None


def training_data(
    roles: Roles, run_dir: Path, scaled: Scaled, folder: Path, seed: int, *, overwrite: bool = False
) -> TrainingData:
    """The data of a variant; the videos of a video model of its own are made in `folder` if need be.

    Raises MissingArtifact that names the notebook whose results are missing.
    """
    if scaled.variant.data == "3d":
        return TrainingData(objects_3d(run_dir))
    videos = layout.synthetic_data.need(run_dir)
    labels = layout.synthetic_labels.need(run_dir)
    if scaled.video_objects is None:
        return good_videos(videos, labels, seed, generated=scaled.generated, wanted=scaled.videos)
    _own_videos(roles, run_dir, scaled, folder, seed, overwrite)
    return good_videos(folder / "videos", folder / "labels", seed, wanted=scaled.videos)


def good_videos(
    videos: Path, labels: Path, seed: int, *, generated: int | None = None, wanted: int | None = None
) -> TrainingData:
    """A part of labelled videos, drawn with the seed: `generated` of them before the filter, `wanted` after it.

    None is all, and so is more than there are. Where fewer than 4 pass the filter, the best 4 are taken.
    """
    everything = SyntheticShards(videos, labels, threshold=None)
    drawn = _order(len(everything), seed)[:generated]
    scores = np.array([facts["score"] for facts in everything.facts])
    good = [index for index in drawn if scores[index] >= 0]
    taken = good if len(good) >= FEWEST else sorted(drawn, key=lambda index: -scores[index])[:FEWEST]
    if generated is None and len(good) == len(taken) <= (wanted or len(good)):
        return TrainingData(SyntheticShards(videos, labels), len(drawn), len(good))  # the very data of notebook 06
    return TrainingData(Subset(everything, taken[:wanted]), len(drawn), len(good))


def finetuning_data(roles: Roles, run_dir: Path, scaled: Scaled, seed: int) -> MultiviewShards | Subset:
    """The 3D objects of a fine-tuning: the best by the aesthetic score, or drawn with the seed; all where it says so.

    Raises ValueError for more views than are stored.
    """
    shards = objects_3d(run_dir)
    asked = scaled.variant.finetuning
    stored = len(shards.picture_names(0))
    views = None
    count = min(scaled.objects, len(shards))
    if asked.views is not None and asked.views != stored:
        if stored % asked.views:
            raise ValueError(
                f"{shards.folder} holds {stored} views of an object, of which no {asked.views} can be taken evenly"
            )
        views = range(0, stored, stored // asked.views)
    if count == len(shards):
        return shards if views is None else Subset(shards, range(count), views)
    if asked.chosen == "random":
        return Subset(shards, _order(len(shards), seed)[:count], views)
    scores = aesthetic_scores(roles, run_dir, shards)
    return Subset(shards, sorted(range(len(shards)), key=lambda index: -scores[index])[:count], views)


def aesthetic_scores(roles: Roles, run_dir: Path, shards: MultiviewShards) -> np.ndarray:
    """How pleasing each 3D object is by the role aesthetic_score (section 4.3), kept in a file of the run."""
    folder = layout.aesthetic_scores(run_dir)
    judged_by = {role: name_of(roles.profile, role) for role in ("clip", "aesthetic_score")}
    settings = {**judged_by, "data": shards.fingerprint, "views": SEEN_VIEWS}
    path = folder / "scores.csv"
    with only_writer(folder, wait=math.inf):  # of variants on several machines, one makes them and the others wait
        claim_folder(folder, settings, SCORES, overwrite=True)
        if not path.exists():
            scores = score_objects(roles.aesthetic_score, shards)
            write_whole(path, lambda partial: np.savetxt(partial, scores, header="score", comments=""))
    scores = read_table(path, {"score": float}, again := "delete it, and the objects are scored again")["score"]
    if len(scores) != len(shards) or scores.isna().any():
        raise ReadingError(f"{path}: {scores.count()} scores of {len(shards)} objects: {again}")
    return scores.to_numpy()


def score_objects(score: AestheticScore, shards: MultiviewShards, batch: int = 16) -> np.ndarray:
    """The aesthetic score of each object, from 8 uniform views."""
    views = range(0, len(shards.picture_names(0)), max(1, len(shards.picture_names(0)) // SEEN_VIEWS))
    found = []
    for start in tqdm(range(0, len(shards), batch), desc="aesthetic scores", unit="batch"):
        objects = [on_white(shards.read(i, views).rgba) for i in range(start, min(start + batch, len(shards)))]
        found.append(score(torch.stack(objects)).cpu().numpy())
    return np.concatenate(found)


def objects_3d(run_dir: Path) -> MultiviewShards:
    """The rendered 3D objects of notebook 01."""
    return MultiviewShards(layout.objects_3d.need(run_dir))


class _Drawn(TypedDict):
    index: int
    prompt: str


class _MadeWith(TypedDict):
    text_to_image: str
    seed: int
    shard_size: int


def _own_videos(roles: Roles, run_dir: Path, scaled: Scaled, folder: Path, seed: int, overwrite: bool) -> None:
    """Labelled videos of a video model fine-tuned on a part of the 3D data, from images that notebook 04 drew too."""
    profile = roles.profile
    if scaled.variant.second_video_model:
        other = replace(profile.foundations, image_to_video=profile.experiments.second_video_model)
        profile = replace(profile, foundations=other)
    orbits = objects_3d(run_dir)
    whole = VideoShards(layout.synthetic_data(run_dir))
    objects = min(scaled.video_objects, len(orbits))
    model = finetune_video_model(
        profile, orbits.folder, folder / "video_model", objects=objects, seed=seed, overwrite=overwrite
    )
    remove_checkpoints(folder / "video_model")
    drawn = _order(len(whole), seed)[: scaled.generated]
    known = [whole.metadata(place, _Drawn) for place in sorted(drawn)]
    asked = {one["index"]: one["prompt"] for one in known}
    made_with = read_value(_MadeWith, whole.index.get("settings"), f"{whole.folder / 'index.json'}: settings")
    in_parts(
        lambda part: generate_videos(
            folder / "videos",
            [asked.get(index, "") for index in range(max(asked) + 1)],
            roles.text_to_image,
            model,
            roles.profile.video,
            drawn_by=made_with["text_to_image"],
            seed=made_with["seed"],
            shard_size=made_with["shard_size"],
            indices=list(asked),
            part=part,
            overwrite=overwrite,
        )
    )
    labeller, settings = stored_labeller(roles, run_dir)
    in_parts(
        lambda part: label_videos(
            folder / "videos", folder / "labels", labeller, settings=settings, part=part, overwrite=overwrite
        )
    )


def _order(count: int, seed: int) -> list[int]:
    return np.random.default_rng([seed, PART_STREAM]).permutation(count).tolist()
