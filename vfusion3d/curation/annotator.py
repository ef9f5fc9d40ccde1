"""The simulated annotator: a stand-in, offline, for the person who judges videos (section 3.2). It knows the truth.

A person looks at sixteen frames and asks: is this one object, and does it turn? The simulated annotator asks the same,
and may look up the answer. It renders the prompt's object from all around (`truth.true_orbit`) and compares, frame by
frame. A video is good if all three hold:

- **It turns** as the truth does: `truth.turning` is at least `TURNS`. Of what looks the same from all sides, such as a
  bottle, this is not asked.
- **It is like** the truth: its frames are in the mean no farther from their true views, in perceptual distance, than
  views of this object from a quarter and a half turn away are from each other (`LIKE` = 1 times that). The right
  object from sides drawn at random would just pass, a first frame that stands still would too; both fail to turn.
- **It holds together**: no frame is farther than `APART` from its true view.

So it is stricter than a person where the far side of an object is plausible but not the true one, and blind to what the
perceptual distance does not see.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.curation.annotations import SIMULATED, Annotations, Judgement
from vfusion3d.curation.truth import check_drawn_by_stand_in, true_orbit, turning
from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.progress import tqdm

TURNS = 0.5  # halfway between standing still (0) and turning as the truth does (1)
LIKE = 1.0  # of how far apart different views of the object are
# Perceptual distances of the bundled miniature, over 24 orbits: encoding and decoding a true orbit with the video
# model's autoencoder costs 0.09 in the mean (0.02 to 0.23), the worst frame 0.14; another object in its place costs
# 0.55 (0.33 to 0.72).
CLOSE = 0.15  # so near counts as like the truth even where all views of an object look the same
APART = 0.45  # so far from its true view a frame might as well show another object
EACH_KIND = 0.2  # least share of good, and of bad, judgements: a filter cannot learn from one kind


@dataclass(frozen=True)
class Verdict:
    """How a video compares with its truth.

    turning: see `truth.turning`. distance: mean perceptual distance to the true views. between: what it may be (see
    above). worst: the largest distance of a frame.
    """

    turning: float
    distance: float
    between: float
    worst: float

    @property
    def conditions(self) -> dict[str, bool]:
        """The three conditions by name, and whether each holds. What looks the same from all sides always turns."""
        return {
            "turns": not self.turning < TURNS,
            "is like the truth": self.likeness >= 1,
            "holds together": self.worst <= APART,
        }

    @property
    def likeness(self) -> float:
        """The distance that it may have over the one that it has: 1 or more is like the truth."""
        return LIKE * self.between / max(self.distance, 1e-6)

    @property
    def margin(self) -> float:
        """By which factor the video meets the hardest of the three conditions."""
        turns = math.inf if math.isnan(self.turning) else self.turning / TURNS
        return min(turns, self.likeness, APART / max(self.worst, 1e-6))

    @property
    def good(self) -> bool:
        """Whether all three conditions hold."""
        return all(self.conditions.values())


@torch.no_grad()
def judge_video(
    video: Float[Tensor, "frames 3 h w"], truth: Float[Tensor, "frames 3 h w"], perceptual: PerceptualDistance
) -> Verdict:
    """Compare a video in [0, 1] with the true orbit, frame by frame; both are on the CPU."""
    device = next(perceptual.parameters()).device
    shown, true = video.to(device), truth.to(device)
    away = [perceptual(true.roll(len(true) // part, 0), true).mean().item() for part in (4, 2)]
    distance = perceptual(shown, true)[1:]  # the first frame was given
    return Verdict(turning(video, truth), distance.mean().item(), max(CLOSE, sum(away) / 2), distance.max().item())


@torch.no_grad()
def nearest_side(
    video: Float[Tensor, "frames 3 h w"], truth: Float[Tensor, "frames 3 h w"], perceptual: PerceptualDistance
) -> float:
    """How far a video's frames are, in the mean, from whichever true view each is nearest to; in [0, 1] on the CPU."""
    device = next(perceptual.parameters()).device
    true = truth.to(device)
    frames = video[1:].to(device)  # the first was given
    return torch.stack([perceptual(frame.expand_as(true), true).min() for frame in frames]).mean().item()


def annotate(
    annotations: Annotations,
    videos: VideoShards,
    places: Sequence[int],
    perceptual: PerceptualDistance,
    *,
    progress: bool = True,
) -> dict[str, Verdict]:
    """Judge those of the videos (by place) that nobody has judged, and write it down. Returns the verdicts by key.

    Where fewer than a fifth of them are good, those with the largest margins are called good until it is a fifth, and
    likewise for bad: a person with bad videos would also begin to call the better ones good. Raises ValueError where
    the videos did not begin with the stand-in's pictures: nobody knows the truth of others.
    """
    seed = check_drawn_by_stand_in(videos)
    verdicts = {}
    todo = [place for place in places if videos.keys[place] not in annotations]
    for place in tqdm(todo, desc="judging", unit="video", disable=not progress):
        sample = videos[place]
        video = sample.frames.float() / 255
        truth, _ = true_orbit(sample.caption, seed, sample.metadata["index"], len(video), video.shape[-1])
        verdicts[sample.key] = judge_video(video, truth, perceptual)
    good = call(list(verdicts.values()))
    annotations.judge_all(Judgement(key, bool(says), SIMULATED) for key, says in zip(verdicts, good, strict=True))
    return verdicts


def call(verdicts: Sequence[Verdict]) -> list[bool]:
    """Which are called good: those that are, but at least a fifth, and at most four fifths (see `annotate`)."""
    least = math.ceil(EACH_KIND * len(verdicts))
    good = sum(verdict.good for verdict in verdicts)
    count = min(max(good, least), max(len(verdicts) - least, 0))
    best = np.argsort([-verdict.margin for verdict in verdicts], kind="stable")[:count]
    return [place in best for place in range(len(verdicts))]
