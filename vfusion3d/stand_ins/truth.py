"""What a synthetic video should have shown, and how far it turned: offline, where the procedural world knows.

Only the stand-in of the text-to-image role draws objects that can be drawn again from every side. A pretrained model
draws a picture of nothing that exists in 3D: there is no truth then, and whoever asks for it has to do without.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vfusion3d.cameras import default_intrinsics, orbit_cameras
from vfusion3d.data.images import on_white, resize
from vfusion3d.data.shards import MultiviewShards, VideoShards
from vfusion3d.foundations.text_to_image import imagined
from vfusion3d.video.generate import sample_generator
from vfusion3d.world.catalogue import ObjectSpec

ALIKE = 0.1  # views nearer to each other than this share of the mean squared distance between views look alike
CHANGE = 0.06  # root mean square difference between views, of colours in [0, 1]: of a thing that is round in shape and
# pattern only the shading changes, by 0.02 to 0.05; all others of the procedural world have 0.08 and more
LEAST = 0.25  # of 1 - backwards(truth): below it, turning either way looks the same


def true_orbit(
    prompt: str, seed: int, index: int, frames: int, size: int
) -> tuple[Float[Tensor, "frames 3 size size"], float]:
    """The orbit of the object that sample `index` of `generate_videos` shows, and its elevation in radians.

    prompt, seed, index: those of the sample (index: its metadata's). Images in [0, 1] on white, of `size` pixels a
    side, from uniform azimuths; the first is, to the byte, the picture that the stand-in of the text-to-image role
    drew. Raises CaptionError for a prompt that the caption grammar cannot read.
    """
    spec, elevation = imagined(prompt, sample_generator(seed, index))
    return _orbit(spec, elevation, frames, size), elevation


def unseen_orbit(shards: MultiviewShards, index: int, frames: int, size: int) -> Float[Tensor, "frames 3 size size"]:
    """The orbit of object `index` of rendered 3D data, in [0, 1] on white: what a video of it should show.

    A procedural object is rendered again, from uniform azimuths and without the camera noise of its stored views, which
    `turning` would take for turning the wrong way. Of a mesh file the stored views nearest to those azimuths are taken.
    """
    known = shards.metadata(index)
    if "spec" not in known:
        stored = len(shards.picture_names(index))
        views = [round(frame * stored / frames) % stored for frame in range(frames)]
        return resize(on_white(shards.read(index, views).rgba), size)
    spec = ObjectSpec(**known["spec"])
    return _orbit(spec, known["elevation"], frames, size)


def _orbit(spec: ObjectSpec, elevation: float, frames: int, size: int) -> Float[Tensor, "frames 3 size size"]:
    from vfusion3d.data.render import render_views
    from vfusion3d.world.objects import build_mesh

    mesh = build_mesh(spec)
    orbit = orbit_cameras(frames, elevation)
    parts = [part for part in (orbit[:1], orbit[1:]) if len(part)]  # by itself, for a renderer rounds by the window
    rgba = [render_views(mesh, cameras, default_intrinsics(len(cameras)), size).rgba for cameras in parts]
    return on_white(torch.from_numpy(np.concatenate(rgba)).movedim(-1, 1))


def how_far_round(video: Float[Tensor, "frames 3 h w"], truth: Float[Tensor, "views 3 h w"]) -> Int[Tensor, " frames"]:
    """For each frame of a video, the number of the true view that is nearest to it in mean squared error."""
    return distances(video, truth).argmin(dim=1)


def turning(video: Float[Tensor, "frames 3 h w"], truth: Float[Tensor, "frames 3 h w"]) -> float:
    """How a video turns: 1 as the truth does, 0 stands still or at random, -1 the wrong way round, NaN: cannot be seen.

    Frame i of F should be a = 2 pi i / F round the object. It is b = 2 pi j / F round, where j is the true view nearest
    to it, or any view that looks like that one (nearer to it than a tenth of the mean squared distance between views:
    a table looks the same from two sides). With

        forwards = mean over i of max over j of cos(b - a),    backwards = mean over i of max over j of cos(b + a),

    turning = (forwards - backwards) / (1 - backwards of the truth itself), cut to [-1, 1]. A constant b, whatever it
    is, gives 0; so do random ones in the mean, and b = a / 2, half a turn only. NaN where the truth hardly changes (a
    round thing), or looks alike turned either way.
    Raises ValueError on shapes that do not fit.
    """
    if video.shape != truth.shape:
        raise ValueError(f"a video {tuple(video.shape)} cannot be held to a truth {tuple(truth.shape)}")
    count = len(truth)
    between = distances(truth, truth)
    typical = _mean_of_pairs(between)
    if typical.sqrt() < CHANGE:
        return math.nan
    alike = between <= ALIKE * typical  # (view, view); every view looks like itself
    angle = torch.arange(count) * (2 * math.pi / count)

    def agreement(nearest: Int[Tensor, " frames"], direction: int) -> float:
        cosines = torch.cos(angle[None, :] - direction * angle[:, None])  # (frame, view)
        return cosines.masked_fill(~alike[nearest], -1).amax(dim=1).mean().item()

    whole = 1 - agreement(torch.arange(count), -1)
    if whole < LEAST:
        return math.nan
    nearest = how_far_round(video, truth)
    return max(-1.0, min(1.0, (agreement(nearest, 1) - agreement(nearest, -1)) / whole))


def looks_alike_all_round(truth: Float[Tensor, "views 3 h w"]) -> bool:
    """Whether views differ by under `CHANGE`, the root mean square over all pairs: a thing that nobody can see turn."""
    return _mean_of_pairs(distances(truth, truth)).sqrt().item() < CHANGE


def _mean_of_pairs(between: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Of distances between views, without those of a view to itself."""
    return between.sum() / (len(between) * (len(between) - 1))


def distances(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "n m"]:
    """Mean squared error of every image of one batch against every image of another."""
    return torch.stack([(image - b).square().mean(dim=(1, 2, 3)) for image in a])


def true_elevations(videos: VideoShards) -> Float[np.ndarray, "videos"]:
    """The elevations, in radians, from which the stand-in drew the first frames of generated videos.

    Raises ValueError where something else drew them (see `check_drawn_by_stand_in`).
    """
    seed = check_drawn_by_stand_in(videos)
    known = [(videos.caption(place), videos.metadata(place)["index"]) for place in range(len(videos))]
    return np.array([imagined(prompt, sample_generator(seed, index))[1] for prompt, index in known])


def check_drawn_by_stand_in(videos: VideoShards) -> int:
    """The seed of generated videos. Raises ValueError where their pictures are not the procedural world's."""
    settings = videos.index.get("settings", {})
    drawn_by = settings.get("text_to_image", "an unknown model")
    if drawn_by != "stand-in":
        raise ValueError(
            f"{videos.folder}: the truth is known only of videos that begin with a picture of the procedural world, "
            f"not of {drawn_by}: a person has to judge these (notebook 05)"
        )
    return settings["seed"]
