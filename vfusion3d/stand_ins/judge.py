"""The simulated judge: a stand-in, offline, for the person who judges videos (section 3.2). It knows the truth.

A person looks at sixteen frames and asks: is this one object, seen from all around, and the one that was asked for? The
simulated judge asks the same, and may look up the answer. It renders the prompt's object from all around
(`truth.true_orbit`) and compares, frame by frame. A video is good if all four hold:

- **It moves**: its frames differ from the first at least half as much as the true views do (`MOVES`). Of what looks the
  same from all sides, such as a bottle, this is not asked.
- **It is consistent**: it has the outlines of the object, seen from all around. Their mean IoU with the true outlines
  is at least `CONSISTENT`. A car, a chair or a guitar that turns at half the pace, the wrong way or not at all has not.
- **It is like** the truth: in perceptual distance its frames are in the mean no farther than `LIKE` from their true
  views.
- **It holds together**: no frame is farther than `APART` from its true view.

So it is stricter than a person where the far side of an object is plausible but not the true one. It is blind to a
thing that turns the wrong way round where its outlines are nearly the same either way, even if the pattern would tell a
person; `truth.turning` measures that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.curation.judgements import SIMULATED, Judgement, Judgements
from vfusion3d.curation.masks import mask_iou
from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.foundations.saliency import unlike_the_background
from vfusion3d.runs.progress import tqdm
from vfusion3d.stand_ins.truth import check_drawn_by_stand_in, looks_alike_all_round, true_orbit

# Means over 200 orbits of prompts with the bundled perceptual distance, `mini`; in brackets the worst twentieth, of
# another object the best:
#   the truth, encoded and decoded by the video model's autoencoder: IoU 0.97 (0.91), distance 0.06 (0.16)
#   the same object an eighth of a turn further round:               IoU 0.71, distance 0.19
#   another object in its place:                                     IoU 0.40 (0.64), distance 0.57 (0.39)
MOVES = 0.5  # halfway between standing still (0) and changing as the truth does (1)
CONSISTENT = 0.75  # a little more than an eighth of a turn too far has
LIKE = 0.3  # about halfway between what the autoencoder does to the truth and another object
APART = 0.45  # so far from its true view a frame might as well show another object
EACH_KIND = 0.2  # least share of good, and of bad, judgements: a filter cannot learn from one kind


@dataclass(frozen=True)
class Verdict:
    """How a video compares with its truth.

    change: how much its frames differ from the first, over how much the true views do (root mean squares); NaN where
    the true views hardly do. overlap: mean IoU of its outlines with the true ones. distance: mean perceptual distance
    to the true views. worst: the largest distance of a frame.
    """

    change: float
    overlap: float
    distance: float
    worst: float

    @property
    def conditions(self) -> dict[str, bool]:
        """The four conditions by name, and whether each holds. What looks the same from all sides always moves."""
        return {
            "moves": not self.change < MOVES,
            "is consistent": self.overlap >= CONSISTENT,
            "is like the truth": self.distance <= LIKE,
            "holds together": self.worst <= APART,
        }

    @property
    def margin(self) -> float:
        """By which factor the video meets the hardest of the four conditions; 1 or more is good."""
        moves = math.inf if math.isnan(self.change) else self.change / MOVES
        outside = (1 - CONSISTENT) / max(1 - self.overlap, 1e-6)
        return min(moves, outside, LIKE / max(self.distance, 1e-6), APART / max(self.worst, 1e-6))

    @property
    def good(self) -> bool:
        """Whether all four conditions hold."""
        return all(self.conditions.values())


@torch.no_grad()
def judge_video(
    video: Float[Tensor, "frames 3 h w"], truth: Float[Tensor, "frames 3 h w"], perceptual: PerceptualDistance
) -> Verdict:
    """Compare a video in [0, 1] with the true orbit, frame by frame; both are on the CPU.

    The first frame was given: it is not compared with the truth, only `change` is measured from it. Raises ValueError
    on shapes that do not fit.
    """
    if video.shape != truth.shape:
        raise ValueError(f"a video {tuple(video.shape)} cannot be held to a truth {tuple(truth.shape)}")
    device = next(perceptual.parameters()).device
    distance = perceptual(video[1:].to(device), truth[1:].to(device))
    outlines, true_outlines = (unlike_the_background(views[1:]) for views in (video, truth))
    moved, true_moved = ((views[1:] - views[:1]).square().mean().sqrt().item() for views in (video, truth))
    return Verdict(
        change=math.nan if looks_alike_all_round(truth) else moved / true_moved,
        overlap=mask_iou(outlines, true_outlines).mean().item(),
        distance=distance.mean().item(),
        worst=distance.max().item(),
    )


def judge_videos(
    judgements: Judgements, videos: VideoShards, places: Sequence[int], perceptual: PerceptualDistance
) -> dict[str, Verdict]:
    """Judge those of the videos (by place) that nobody has judged, and write it down. Returns the verdicts by key.

    What an earlier version of the simulated judge judged, these or other videos, is judged anew. Where fewer than a
    fifth of them are good, those with the largest margins are called good until it is a fifth, and likewise for bad: a
    person with bad videos would also begin to call the better ones good. Raises ValueError where the videos did not
    begin with the stand-in's pictures: nobody knows the truth of others.
    """
    seed = check_drawn_by_stand_in(videos)
    verdicts = {}
    before = [judgements.get(key) for key in videos.keys]
    stale = [place for place, made in enumerate(before) if made and made.simulated and made.judge != SIMULATED]
    todo = dict.fromkeys([*(place for place in places if before[place] is None), *stale])
    for place in tqdm(todo, desc="judging", unit="video"):
        sample = videos[place]
        video = sample.frames.float() / 255
        truth, _ = true_orbit(sample.caption, seed, sample.metadata["index"], len(video), video.shape[-1])
        verdicts[sample.key] = judge_video(video, truth, perceptual)
    good = call(list(verdicts.values()))
    judgements.judge_all(Judgement(key, bool(says), SIMULATED) for key, says in zip(verdicts, good, strict=True))
    return verdicts


def call(verdicts: Sequence[Verdict]) -> list[bool]:
    """Which are called good: those that are, but at least a fifth, and at most four fifths (see `judge_videos`)."""
    least = math.ceil(EACH_KIND * len(verdicts))
    good = sum(verdict.good for verdict in verdicts)
    count = min(max(good, least), max(len(verdicts) - least, 0))
    best = np.argsort([-verdict.margin for verdict in verdicts], kind="stable")[:count]
    return [place in best for place in range(len(verdicts))]
