"""What a variant is trained on: synthetic videos before or after the filter, perhaps of a video model of its own (4.3).

Which videos a part of the synthetic data holds is drawn with the variant's seed. The parts of one seed lie inside each
other, so that more data is the same data and more.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vfusion3d.curation.curate import stored_labeller
from vfusion3d.curation.labels import label_videos
from vfusion3d.data.images import on_white
from vfusion3d.data.shards import MultiviewShards, VideoShards
from vfusion3d.data.subset import Subset
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.experiments.variants import Finetuning, Variant
from vfusion3d.foundations.aesthetic_score import AestheticScore, aesthetic_score
from vfusion3d.foundations.text_to_image import text_to_image
from vfusion3d.runs import layout
from vfusion3d.runs.claim import claim_folder, write_whole
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.progress import tqdm
from vfusion3d.video.finetune import finetune_video_model
from vfusion3d.video.generate import generate_videos

PART_STREAM = 43  # beside a variant's seed: no other step draws these random numbers
FEWEST = 4  # videos to train on, the best by the filter's score where fewer pass it
SEEN_VIEWS = 8  # of a 3D object, for its aesthetic score


@dataclass(frozen=True)
class TrainingData:
    """What a variant is trained on; of how many generated videos, and how many passed the filter (None: no videos)."""

    shards: MultiviewShards | SyntheticShards | Subset
    generated: int | None = None
    good: int | None = None


def training_data(
    profile: Profile, run_dir: Path, variant: Variant, folder: Path, seed: int, *, overwrite: bool = False
) -> TrainingData:
    """The data of a variant; the videos of a video model of its own are made in `folder` if need be.

    Raises MissingArtifact that names the notebook whose results are missing.
    """
    if variant.data == "3d":
        return TrainingData(objects_3d(run_dir))
    videos, labels = layout.synthetic_data.need(run_dir), layout.synthetic_labels.need(run_dir)
    generated = None if variant.generated is None else profile.scaled(variant.generated)
    wanted = None if variant.videos is None else profile.scaled(variant.videos)
    if variant.video_objects is not None:
        videos, labels = _own_videos(profile, run_dir, variant, folder, seed, overwrite)
        generated = None
    return good_videos(videos, labels, seed, generated=generated, wanted=wanted)


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
    facts = {"generated": len(drawn), "good": len(good)}
    if generated is None and len(good) == len(taken) <= (wanted or len(good)):
        return TrainingData(SyntheticShards(videos, labels), **facts)  # the very data of notebook 06
    return TrainingData(Subset(everything, taken[:wanted]), **facts)


def finetuning_data(profile: Profile, run_dir: Path, finetuning: Finetuning, seed: int) -> MultiviewShards | Subset:
    """The 3D objects of a fine-tuning: the best by the aesthetic score, or drawn with the seed; all where it says so.

    Raises ValueError for more views than are stored.
    """
    shards = objects_3d(run_dir)
    stored, views = len(shards.picture_names(0)), None
    count = min(profile.scaled_3d(finetuning.objects), len(shards))
    if finetuning.views is not None and finetuning.views != stored:
        if stored % finetuning.views:
            raise ValueError(
                f"{shards.folder} holds {stored} views of an object, of which no {finetuning.views} can be taken evenly"
            )
        views = range(0, stored, stored // finetuning.views)
    if count == len(shards):
        return shards if views is None else Subset(shards, range(count), views)
    if finetuning.chosen == "random":
        return Subset(shards, _order(len(shards), seed)[:count], views)
    scores = aesthetic_scores(profile, run_dir, shards)
    return Subset(shards, sorted(range(len(shards)), key=lambda index: -scores[index])[:count], views)


def aesthetic_scores(profile: Profile, run_dir: Path, shards: MultiviewShards) -> np.ndarray:
    """How pleasing each 3D object is by the role aesthetic_score (section 4.3), kept in a file of the run."""
    folder = layout.aesthetic_scores(run_dir)
    judged_by = {"clip": profile.foundations.clip, "aesthetic_score": profile.foundations.aesthetic_score}
    claim_folder(folder, {**judged_by, "data": shards.fingerprint, "views": SEEN_VIEWS}, overwrite=True)
    path = folder / "scores.csv"
    if not path.exists():
        scores = score_objects(aesthetic_score(profile), shards)
        write_whole(path, lambda partial: np.savetxt(partial, scores, header="score", comments=""))
    return np.loadtxt(path, skiprows=1, ndmin=1)


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


def _own_videos(
    profile: Profile, run_dir: Path, variant: Variant, folder: Path, seed: int, overwrite: bool
) -> tuple[Path, Path]:
    """Videos of a video model fine-tuned on a part of the 3D data, from images that notebook 04 drew too."""
    orbits, whole = objects_3d(run_dir), VideoShards(layout.synthetic_data(run_dir))
    objects = min(profile.scaled_3d(variant.video_objects), len(orbits))
    how = {"seed": seed, "overwrite": overwrite}
    model = finetune_video_model(profile, orbits.folder, folder / "video_model", objects=objects, **how)
    (folder / "video_model" / "checkpoint.safetensors").unlink(missing_ok=True)
    drawn = _order(len(whole), seed)[: profile.scaled(variant.generated)]
    asked = {known["index"]: known["prompt"] for known in map(whole.metadata, sorted(drawn))}
    made_with = whole.index["settings"]
    generate_videos(
        folder / "videos",
        [asked.get(index, "") for index in range(max(asked) + 1)],
        text_to_image(profile),
        model,
        profile.video,
        drawn_by=made_with["text_to_image"],
        seed=made_with["seed"],
        shard_size=made_with["shard_size"],
        indices=list(asked),
        overwrite=overwrite,
    )
    labeller, settings = stored_labeller(profile, run_dir)
    label_videos(folder / "videos", folder / "labels", labeller, settings=settings, overwrite=overwrite)
    return folder / "videos", folder / "labels"


def _order(count: int, seed: int) -> list[int]:
    return np.random.default_rng([seed, PART_STREAM]).permutation(count).tolist()
