"""From videos to training data: what the filter and the elevation network learn from, and where they are kept.

Both are learned once. A model is taken from its file as long as what it was learned from, and how, is the same.
"""

import functools
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from vfusion3d.cameras import HIGHEST_ELEVATION, default_intrinsics, offset_cameras, orbit_cameras
from vfusion3d.curation.elevation import ELEVATION_VIEWS, train_elevation
from vfusion3d.curation.features import features_of_all
from vfusion3d.curation.judgements import Judgements
from vfusion3d.curation.labels import Labeller
from vfusion3d.curation.quality import FOLDS, QUALITY_FRAMES, REPEATS, C, held_out_scores, train_filter
from vfusion3d.data.images import on_white, resize
from vfusion3d.data.shards import MultiviewShards, Shards, VideoShards
from vfusion3d.foundations.image_features import ImageFeatures, image_features, patch_features
from vfusion3d.foundations.loading import name_of
from vfusion3d.foundations.roles import Roles
from vfusion3d.foundations.saliency import saliency
from vfusion3d.runs.claim import Arguments, changes, made_with, record, short_name, write_record, write_whole
from vfusion3d.runs.layout import curation_models
from vfusion3d.runs.lock import only_writer
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.reading import ReadingError, read_json, regular_file
from vfusion3d.world.catalogue import ObjectSpec

QUALITY, ELEVATION, HELD_OUT = "quality.skops", "elevation.skops", "held_out.json"
GROUPS = 4  # times 4 views that are taken from each stored orbit of the 3D data
ORBITS = 8  # of 4 views, at other elevations, that procedural objects are rendered from again
OTHERS = 15  # other objects for each of them
ENOUGH = 1500  # other objects at most
# Of the elevation network; chosen on 300 unseen objects of all categories, where its error is 5.5 degrees (3.8 on the
# categories of the 3D data). It was 7.7 from the 3D data's own orbits alone, and 8.0 to 9.1 with class tokens.
DECAY = 10.0
LEARNING_RATE = 2e-4
EPOCHS = 100
ELEVATION_OF = "all groups of views"  # sets labels apart from those of one group, by the same network
Model = Pipeline | TransformedTargetRegressor


class _Orbit(TypedDict):
    elevation: float


class _Procedural(TypedDict):
    spec: ObjectSpec


class _HeldOut(TypedDict):
    settings: dict[str, Any]
    scores: dict[str, float]


def videos_to_judge(videos: Shards, count: int, seed: int) -> list[int]:
    """The places of `count` of the videos (or all, if there are fewer), drawn at random, in the order of judging."""
    return np.random.default_rng(seed).permutation(len(videos))[:count].tolist()


def judged_features(
    features: ImageFeatures, videos: VideoShards, judgements: Judgements
) -> tuple[Float[np.ndarray, "judged width"], Bool[np.ndarray, "judged"]]:
    """What the filter learns from: the features of every judged video, and whether it is good.

    Raises ValueError where none is judged.
    """
    places, good = judgements.arrays()
    if not len(places):
        raise ValueError(f"{judgements.path} holds no judgement yet: judge some videos first (notebook 05)")
    frames = _Frames(videos, places)
    return features_of_all(features, frames, QUALITY_FRAMES), good


def orbit_features(
    features: ImageFeatures, shards: MultiviewShards, size: int, *, groups: int = GROUPS
) -> tuple[Float[np.ndarray, "objects groups width"], Float[np.ndarray, "objects"]]:
    """Features of 4 uniform views of each stored orbit, averaged, and its elevation in radians.

    An orbit of 32 views holds 8 such groups; `groups` of them are taken, each also mirrored, for an orbit seen in a
    mirror has the same elevation. So there are 2 * groups samples an object, of views of `size` pixels a side. Raises
    ValueError where the views are too few.
    """
    found, elevations = [], []
    for index in tqdm(range(len(shards)), desc="features of orbits", unit="object"):
        stored = len(shards.picture_names(index))
        if stored < groups * ELEVATION_VIEWS:
            raise ValueError(f"object {shards.keys[index]} has {stored} views, not {groups} x {ELEVATION_VIEWS}")
        chosen = [place * stored // (groups * ELEVATION_VIEWS) for place in range(groups * ELEVATION_VIEWS)]
        views = resize(on_white(shards.read(index, chosen).rgba), size)
        seen = features(torch.cat([views, views.flip(-1)])).float().cpu()  # (2 * 4 * groups, width)
        found.append(seen.view(2, ELEVATION_VIEWS, groups, -1).mean(dim=1).flatten(0, 1).numpy())
        elevations.append(shards.metadata(index, _Orbit)["elevation"])
    return np.stack(found), np.array(elevations)


def elevation_samples(
    features: ImageFeatures, shards: MultiviewShards, size: int, seed: int
) -> tuple[Float[np.ndarray, "samples width"], Float[np.ndarray, "samples"]]:
    """What the elevation network learns from: features of 4 uniform views, averaged, and elevations in radians.

    The paper has 100,000 objects and each at one elevation. Of a hundred objects a network would learn which object
    stands where. So procedural objects are rendered again, each from `ORBITS` elevations, and up to `OTHERS` times as
    many (`ENOUGH` at most) are drawn anew: objects of the same categories, and clusters of primitives, which have none.
    All are also seen mirrored, which changes no elevation. Of mesh files the stored orbits are taken
    (`orbit_features`).
    """
    if not len(shards) or "spec" not in shards.metadata(0):
        seen, elevations = orbit_features(features, shards, size)
        return seen.reshape(-1, seen.shape[-1]), elevations.repeat(seen.shape[1])
    from vfusion3d.world.objects import build_mesh
    from vfusion3d.world.primitives import random_primitives
    from vfusion3d.world.unseen import held_out, sample_apart

    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    found, known = [], []

    def learn_from(mesh: trimesh.Trimesh, orbits: int) -> None:
        views, elevations = _orbits(mesh, orbits, size, generator)
        both = features(torch.cat([views, views.flip(-1)])).float().cpu()
        found.append(both.unflatten(0, (2 * orbits, ELEVATION_VIEWS)).mean(dim=1).numpy())
        known.append(np.tile(elevations, 2))

    specs = [shards.metadata(index, _Procedural)["spec"] for index in range(len(shards))]
    for spec in tqdm(specs, desc="orbits at other elevations", unit="object"):
        learn_from(build_mesh(spec), ORBITS)
    categories = sorted({spec.category for spec in specs})
    others = range(min(OTHERS * len(specs), ENOUGH))
    for place in tqdm(others, desc="other objects", unit="object"):
        learn_from(build_mesh(sample_apart(rng, (categories[place % len(categories)],), held_out(seed))), 2)
        learn_from(random_primitives(rng), 1)
    return np.concatenate(found), np.concatenate(known)


def _orbits(
    mesh: trimesh.Trimesh, orbits: int, size: int, generator: torch.Generator
) -> tuple[Float[torch.Tensor, "views 3 size size"], Float[np.ndarray, "orbits"]]:
    """Orbits of 4 views around an object, one after the other, from as many steps of [0, pi/4]."""
    from vfusion3d.data.render import render_views

    elevations = (torch.arange(orbits) + torch.rand(orbits, generator=generator)) / orbits * HIGHEST_ELEVATION
    turns = torch.rand(orbits, generator=generator) * 2 * math.pi
    paths = [
        orbit_cameras(ELEVATION_VIEWS, elevation, azimuth=turn)
        for elevation, turn in zip(elevations.tolist(), turns.tolist(), strict=True)
    ]
    cameras = offset_cameras(torch.cat(paths), generator)
    rgba = render_views(mesh, cameras, default_intrinsics(len(cameras)), size).rgba
    return on_white(torch.from_numpy(rgba).movedim(-1, 1)), elevations.numpy()


def quality_model(
    folder: Path,
    features: ImageFeatures,
    videos: VideoShards,
    judgements: Judgements,
    profile: Profile,
    seed: int = 0,
) -> tuple[Pipeline, dict[str, float], dict[str, Any]]:
    """The filter of `folder`/quality.skops, the judged videos' held-out scores, and what both were learned from.

    The scores (by key; none where a kind has fewer than two videos) are the means of `held_out_scores`, and are kept in
    `folder`/held_out.json. Both are made anew where the judgements changed.
    """
    settings = {
        "features": name_of(profile, "image_features"),
        "videos": videos.fingerprint,
        "judgements": judgements.digest,
        "C": C,
    }
    asked = {**settings, "held_out": {"folds": FOLDS, "repeats": REPEATS, "seed": seed}}
    learn_from = functools.cache(lambda: judged_features(features, videos, judgements))
    model = learned(folder / QUALITY, settings, lambda: train_filter(*learn_from()), Pipeline)
    path = folder / HELD_OUT
    remade = "delete it, and it is made again"
    known = read_json(path, _HeldOut, remade) if path.exists() else {"settings": {}}
    if changes(known["settings"], asked):
        places, good = judgements.arrays()
        scores = {}
        if min(good.sum(), (~good).sum()) >= 2:
            means = held_out_scores(*learn_from(), seed=seed).mean(axis=0)
            scores = {videos.keys[int(place)]: float(mean) for place, mean in zip(places, means, strict=True)}
        known = {"settings": record(asked), "scores": scores}
        write_whole(path, lambda partial: partial.write_text(json.dumps(known, indent=1)))
    return model, known["scores"], asked


def elevation_model(
    folder: Path, shards: MultiviewShards, profile: Profile, seed: int = 0
) -> tuple[TransformedTargetRegressor, dict[str, Any]]:
    """The network of `folder`/elevation.skops, learned anew where the 3D data changed; and what it was learned from.

    It reads `image_features.patch_features`.
    """
    settings = {
        "features": name_of(profile, "image_features"),
        "data": shards.fingerprint,
        "size": profile.video.size,
        "samples": {"groups": GROUPS, "orbits": ORBITS, "others": OTHERS, "most_others": ENOUGH},
        "network": Arguments(train_elevation, {"decay": DECAY, "learning_rate": LEARNING_RATE, "epochs": EPOCHS}),
        "seed": seed,
    }

    def learn() -> TransformedTargetRegressor:
        seen, elevations = elevation_samples(patch_features(profile), shards, profile.video.size, seed)
        return train_elevation(seen, elevations, seed, decay=DECAY, learning_rate=LEARNING_RATE, epochs=EPOCHS)

    return learned(folder / ELEVATION, settings, learn, TransformedTargetRegressor), settings


def learned(
    path: str | Path, settings: Mapping[str, Any], learn: Callable[[], Model], kind: type[Model] | None = None
) -> Model:
    """The model at `path` if the record beside it says that it was learned with these settings; else `learn()`, kept.

    Raises ValueError where the file is broken or holds something else (see `load_model`).
    """
    path = Path(path)
    beside = path.with_suffix(".json")
    if path.exists() and made_with(beside, settings):
        return load_model(path, kind)
    model = learn()
    beside.unlink(missing_ok=True)  # a kill between the two files must not leave old settings beside a new model
    save_model(model, path)
    write_record(beside, settings)
    return model


def new_labeller(
    profile: Profile,
    folder: Path,
    videos: VideoShards,
    judgements: Judgements,
    shards: MultiviewShards,
    seed: int = 0,
) -> tuple[Labeller, dict[str, Any]]:
    """All that labels videos, with the models of `folder`, and the settings that name it for `label_videos`.

    A judged video is not scored by the filter that learned from it but by filters that did not (`held_out_scores`).
    """
    features = image_features(profile)
    with only_writer(folder, wait=math.inf):  # parts of the work on many machines: one learns, the others wait
        quality, scores, judged = quality_model(folder, features, videos, judgements, profile, seed)
        elevation, trained = elevation_model(folder, shards, profile, seed)
    settings = {
        "quality": judged,
        "elevation": trained,
        "elevation_of": ELEVATION_OF,
        "saliency": name_of(profile, "saliency"),
    }
    held_out = {(videos.fingerprint, key): score for key, score in scores.items()}
    return Labeller(features, quality, elevation, saliency(profile), patch_features(profile), held_out), settings


def stored_labeller(roles: Roles, run_dir: Path) -> tuple[Labeller, dict[str, str]]:
    """What labels other videos, with the models that a run has already; the settings say what their files hold.

    No scores are held out. Raises MissingArtifact that names the notebook which makes them.
    """
    folder = curation_models.need(run_dir)
    quality = folder / QUALITY
    elevation = folder / ELEVATION
    settings = {
        "quality": short_name(quality.read_bytes()),
        "elevation": short_name(elevation.read_bytes()),
        "elevation_of": ELEVATION_OF,
        "features": name_of(roles.profile, "image_features"),
        "saliency": name_of(roles.profile, "saliency"),
    }
    models = load_model(quality, Pipeline), load_model(elevation, TransformedTargetRegressor)
    return Labeller(roles.image_features, *models, roles.saliency, roles.patch_features), settings


class _Frames:
    """Some of the videos as floats in [0, 1]."""

    def __init__(self, videos: VideoShards, places: np.ndarray):
        self.videos, self.places = videos, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.videos[int(self.places[index])].frames.float() / 255


TRUSTED = ("sklearn.neural_network._stochastic_optimizers.AdamOptimizer",)  # beyond what skops trusts by itself


def save_model(model: Pipeline | TransformedTargetRegressor, path: str | Path) -> None:
    """Write a fitted scikit-learn model, to a temporary name that is renamed when whole. Equal models, equal bytes."""
    import skops.io

    write_whole(path, partial(Path.write_bytes, data=_without_addresses(skops.io.dumps(model))))


def _without_addresses(file: bytes) -> bytes:
    """A skops file (a zip) in which objects are numbered as they come, not by their addresses, without times."""
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}

    def renumber(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                renumber(item)
        elif isinstance(node, dict):
            if "__id__" in node:
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
            if isinstance(node.get("file"), str):
                node["file"] = names.setdefault(node["file"], f"{len(names)}{Path(node['file']).suffix}")
            for item in node.values():
                renumber(item)

    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(written, "w") as new:
        schema = json.loads(old.read("schema.json"))
        renumber(schema)
        for before, name in names.items():
            new.writestr(zipfile.ZipInfo(name), old.read(before))
        new.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema, indent=1))
    return written.getvalue()


def load_model(path: str | Path, kind: type[Model] | None = None) -> Model:
    """Read it back: the filter (kind Pipeline), the elevation network (TransformedTargetRegressor), None for either.

    Raises ReadingError for a broken file and for one that holds anything else.
    """
    import skops.io

    regular_file(path)
    try:
        foreign = set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED)
        model = None if foreign else skops.io.load(path, trusted=list(TRUSTED))
    except Exception as error:  # of a zip of something else, nearly any
        again = "delete it and train the model again"
        raise ReadingError(f"{path} is not a whole skops file ({error}): {again}") from error
    if foreign:
        raise ReadingError(f"{path} holds {', '.join(sorted(foreign))}: it is not a model of this project")
    if not isinstance(model, kind or Model) or (isinstance(model, Pipeline) and not isinstance(model[-1], SVC)):
        wanted = "elevation network" if kind is TransformedTargetRegressor else "filter"
        raise ReadingError(f"{path} holds a {type(model).__name__}, not the {wanted}: delete it and train that again")
    return model
