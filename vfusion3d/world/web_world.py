"""What the pretrained models of the paper saw, in the miniature world: pictures and videos of everything, captioned.

Objects of all categories, common and uncommon, one or several, with light, backgrounds and cameras of all kinds. The
camera stands still, comes closer, moves aside or swings around in an arc of any direction and up to two thirds of a
circle. The curated part, of which Stable Video Diffusion had one too, shows single objects on white, most of them on a
turntable: a steady arc of up to seven eighths of a circle, all the same way round, as turntables are filmed. Full
circles are what the video model is to learn later, from 3D data. How much a video moves is measured in its pixels and
stored: that is what conditions the video model.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, UInt8
from scipy.ndimage import zoom
from torch import Tensor

from vfusion3d import cameras
from vfusion3d.data.shards import encode_video
from vfusion3d.data.surfaces import DEFAULT_LIGHT, Light
from vfusion3d.data.write_shards import Members, write_shards
from vfusion3d.runs.claim import Arguments, plain
from vfusion3d.world.captions import describe, meaning, with_article
from vfusion3d.world.catalogue import COLOURS, UNCOMMON, ObjectSpec
from vfusion3d.world.motion import motion_of
from vfusion3d.world.objects import build_mesh, sample_object
from vfusion3d.world.unseen import held_out

MOTIONS = {"still": 0.1, "dolly": 0.2, "pan": 0.2, "arc": 0.5}  # how often each occurs
CURATED_MOTIONS = {"still": 0.04, "dolly": 0.04, "pan": 0.04, "arc": 0.88}
ARCS = (math.radians(10), math.radians(240))  # the shortest and the longest
SHORT_ARCS = (math.radians(10), math.radians(60))  # from which nobody learns the far side
CURATED_ARCS = (math.radians(300), math.radians(315))
BACKGROUNDS = {"white": 0.4, "plain": 0.2, "gradient": 0.15, "clouds": 0.15, "horizon": 0.1}
SEVERAL = {1: 0.8, 2: 0.14, 3: 0.06}  # objects in a picture
FRAMES = 16
FPS = 7
FLOOR = -0.75


@dataclass(frozen=True)
class Scene:
    """What stands in front of the camera. panorama: colours in [0, 1] by azimuth (columns) and elevation (rows)."""

    objects: tuple[ObjectSpec, ...]
    mesh: trimesh.Scene
    light: Light
    background: str
    panorama: Float[np.ndarray, "rows columns 3"]
    caption: str


def render_web(
    folder: str | Path,
    count: int,
    *,
    frames: int = FRAMES,
    size: int = 64,
    seed: int = 0,
    curated: bool = False,
    uncommon_turn: bool = True,
    apart_from: int | None = None,
    workers: int = 1,
    shard_size: int = 500,
    overwrite: bool = False,
) -> Path:
    """Make `count` captioned videos of `frames` frames, or pictures (frames=1), as shards for `VideoShards`.

    size: pixels a side. curated: single objects on white in even light, seldom anything but arcs. uncommon_turn: False:
    no camera goes more than 60° round anything of an uncommon category, which leaves of them what the web has
    beside turntables. apart_from: a seed; no caption and no object is what a run of it holds out (`held_out`). workers,
    shard_size, overwrite: as for `write_shards`, which can be interrupted and goes on. Returns the index's path.
    """
    job = _Job(frames, size, seed, curated, uncommon_turn, apart_from)
    known = {"source": "web world", "count": count, "shard_size": shard_size, **dataclasses.asdict(job)}
    unit = "video" if frames > 1 else "picture"
    return write_shards(
        folder,
        job.render,
        count,
        settings=Arguments(render_web, known),
        workers=workers,
        shard_size=shard_size,
        overwrite=overwrite,
        unit=unit,
        kind="pictures of the web world",
    )


@dataclass(frozen=True)
class _Job:
    frames: int
    size: int
    seed: int
    curated: bool = False
    uncommon_turn: bool = True
    apart_from: int | None = None

    def render(self, indices: range) -> list[Members]:
        """Some videos."""
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> Members:
        rng = np.random.default_rng([self.seed, index])
        scene = self.scene(rng)
        raised = scene.background == "horizon"
        short = not self.uncommon_turn and any(spec.category in UNCOMMON for spec in scene.objects)
        motion, cam2world = camera_path(rng, self.frames, raised=raised, curated=self.curated, short=short)
        video = film(scene, cam2world, self.size)
        metadata = {
            "categories": [spec.category for spec in scene.objects],
            "objects": [dataclasses.asdict(spec) for spec in scene.objects],
            "background": scene.background,
            "camera": motion,
            "motion": motion_of(video),
            "fps": FPS,
            "index": index,
        }
        return encode_video(video, scene.caption, plain(metadata))

    def scene(self, rng: np.random.Generator) -> Scene:
        """A scene of nothing that is held out."""
        never = frozenset() if self.apart_from is None else held_out(self.apart_from)
        while True:
            scene = sample_scene(rng, self.curated)
            if not never & {meaning(text) for text in (scene.caption, *map(describe, scene.objects))}:
                return scene


def sample_scene(rng: np.random.Generator, curated: bool = False) -> Scene:
    """One to three objects, their light, what is behind them, and what a person would write under the picture.

    curated: one object on white, in the light of the 3D data.
    """
    count = 1 if curated else int(rng.choice(list(SEVERAL), p=list(SEVERAL.values())))
    specs = tuple(sample_object(rng) for _ in range(count))
    background = "white" if curated else str(rng.choice(list(BACKGROUNDS), p=list(BACKGROUNDS.values())))
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    scene = trimesh.Scene([_placed(spec, place, count, rng) for place, spec in enumerate(specs)])
    if background == "horizon":
        scene.add_geometry(_floor(np.array(COLOURS[colours[0]]) / 255, rng))
    return Scene(
        specs,
        scene,
        DEFAULT_LIGHT if curated else _light(rng),
        background,
        _panorama(background, colours, rng),
        _caption(specs, background, colours, rng),
    )


def film(scene: Scene, cam2world: Float[Tensor, "frames 3 4"], size: int) -> UInt8[np.ndarray, "frames size size 3"]:
    """The scene from each camera, in front of its panorama."""
    from vfusion3d.data.render import render_views

    lens = cameras.default_intrinsics(len(cam2world))
    rgba = render_views(scene.mesh, cam2world, lens, size, shading=scene.light).rgba / 255.0
    _, towards = cameras.rays_through(cameras.pixel_centres(size).expand(len(cam2world), -1, -1), cam2world, lens)
    azimuth = torch.atan2(towards[..., 1], towards[..., 0]) / math.pi
    elevation = torch.asin(towards[..., 2].clamp(-1, 1)) / (math.pi / 2)
    where = torch.stack([azimuth, -elevation], dim=-1)[:, None]  # (F, 1, size * size, 2)
    panorama = torch.from_numpy(scene.panorama).float().permute(2, 0, 1).expand(len(cam2world), -1, -1, -1)
    behind = torch.nn.functional.grid_sample(panorama, where, padding_mode="border", align_corners=True)
    behind = behind.reshape(len(cam2world), 3, size, size).permute(0, 2, 3, 1).numpy()
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    return np.uint8(np.round(255 * np.clip(colour * alpha + behind * (1 - alpha), 0, 1)))


def camera_path(
    rng: np.random.Generator, frames: int, raised: bool = False, curated: bool = False, short: bool = False
) -> tuple[str, Float[Tensor, "frames 3 4"]]:
    """A kind of motion (one of `MOTIONS`) and the camera of each frame.

    raised: never at the height of the floor. curated: mostly long, steady, level arcs around the middle of the picture,
    with the azimuth growing. short: as the web's, and no arc is longer than 60°.
    """
    motions, arcs = (CURATED_MOTIONS, CURATED_ARCS) if curated and not short else (MOTIONS, ARCS)
    arcs = SHORT_ARCS if short else arcs
    kind = str(rng.choice(list(motions), p=list(motions.values())))
    along = torch.linspace(0, 1, frames) if frames > 1 else torch.zeros(1)
    if rng.random() < 0.3 and not curated:
        along = along * along * (3 - 2 * along)  # starts and stops softly
    still = torch.zeros(frames)
    azimuth = rng.uniform(-math.pi, math.pi) + still
    elevation = rng.uniform(0.15 if raised else -0.1, 0.9) + still
    distance = (1.5 if rng.random() < (0.8 if curated else 0.5) else rng.uniform(1.3, 2.1)) + still
    aside = rng.uniform(-0.1, 0.1, 2) if rng.random() < 0.5 and not curated else np.zeros(2)
    aside = torch.tensor(aside, dtype=torch.float32).expand(frames, 2)
    if kind == "dolly":
        distance = distance * (1 + rng.uniform(0.15, 0.6) * (along if rng.random() < 0.5 else 1 - along))
    elif kind == "pan":
        turn, length = rng.uniform(-math.pi, math.pi), rng.uniform(0.1, 0.6)
        step = torch.tensor([math.cos(turn), 0.6 * math.sin(turn)]) * length
        aside = aside + (along[:, None] - 0.5) * step
    elif kind == "arc":
        azimuth = azimuth + (1 if curated else rng.choice([-1, 1])) * rng.uniform(*arcs) * along
        if rng.random() < 0.3 and not curated:
            elevation = (elevation + rng.uniform(-0.3, 0.3) * along).clamp(0.15 if raised else -0.1, 1.1)
    cam2world = cameras.look_at_origin(cameras.sphere_position(azimuth, elevation, distance))
    cam2world[..., 3] += (cam2world[..., :2] @ aside[..., None])[..., 0]
    return kind, cam2world


def _placed(spec: ObjectSpec, place: int, count: int, rng: np.random.Generator) -> trimesh.Trimesh:
    """An object turned about z; of several, each is smaller and in its own corner, all on one floor."""
    mesh = build_mesh(spec)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(rng.uniform(0, 2 * math.pi), [0, 0, 1]))
    if count == 1:
        return mesh
    angle = 2 * math.pi * (place + rng.uniform(-0.1, 0.1)) / count
    mesh.apply_scale(rng.uniform(0.42, 0.58))
    low = mesh.bounds[0, 2]
    mesh.apply_translation([0.45 * math.cos(angle), 0.45 * math.sin(angle), -0.45 - low])
    return mesh


def _floor(colour: np.ndarray, rng: np.random.Generator) -> trimesh.Trimesh:
    """A square floor of mottled or chequered cells, 12 world units a side."""
    cells = 24
    ticks = np.linspace(-6, 6, cells + 1)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    points = np.stack([x, y, np.full_like(x, FLOOR)], axis=-1).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
    corner = (row * (cells + 1) + column).ravel()
    one_half = np.stack([corner, corner + cells + 1, corner + cells + 2], axis=-1)
    other_half = np.stack([corner, corner + cells + 2, corner + 1], axis=-1)
    faces = np.concatenate([one_half, other_half])
    chequered = rng.random() < 0.5
    amount = ((row + column) % 2 * 0.35 if chequered else rng.uniform(0, 0.25, row.shape)).ravel()
    shades = np.clip(colour + (1 - colour) * np.tile(amount, 2)[:, None], 0, 1)
    return trimesh.Trimesh(points, faces, face_colors=np.uint8(255 * shades), process=False)


def _panorama(background: str, colours: list[str], rng: np.random.Generator) -> Float[np.ndarray, "rows columns 3"]:
    first, second = (np.array(COLOURS[name]) / 255 for name in colours[:2])
    first, second = (mix + (1 - mix) * rng.uniform(0.1, 0.7) for mix in (first, second))  # paler than objects
    if background == "white":
        return np.ones((2, 2, 3))
    if background == "plain":
        return np.tile(first, (2, 2, 1))
    if background == "clouds":
        smooth = zoom(rng.uniform(0, 1, (12, 24)), (4, 4), order=3, mode="grid-wrap", grid_mode=True).clip(0, 1)
        return first + (second - first) * smooth[..., None]
    along = np.linspace(0, 1, 33)[:, None, None]  # rows from the zenith to the nadir
    return np.tile(first + (second - first) * along, (1, 2, 1))


def _light(rng: np.random.Generator) -> Light:
    if rng.random() < 0.5:
        return DEFAULT_LIGHT
    towards = rng.normal(size=3)
    towards[2] = abs(towards[2])
    towards *= rng.uniform(0.1, 0.45) / np.linalg.norm(towards)
    return Light(float(rng.uniform(0.55, 0.85)), tuple(map(float, towards)))


def _caption(specs: tuple[ObjectSpec, ...], background: str, colours: list[str], rng: np.random.Generator) -> str:
    """As people write: sometimes all, sometimes the bare word; sometimes what is behind it too."""
    names = []
    for spec in specs:
        bare = dataclasses.replace(spec, colours=spec.colours[:1], pattern="plain", proportion="")
        said = rng.choice(["all", "plain", "name"], p=[0.65, 0.2, 0.15])
        kind = with_article(spec.category)
        names.append({"all": describe(spec), "plain": describe(bare), "name": kind}[said])
    caption = " and ".join(names)
    if background == "plain" and rng.random() < 0.5:
        caption += f" on a {colours[0]} background"
    opening = rng.choice(["", "a photo of ", "a picture of ", "an image of "], p=[0.55, 0.15, 0.15, 0.15])
    return f"{opening}{caption}"
