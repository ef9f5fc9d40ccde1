"""How much a video moves: the mean length of its optical flow, measured in the pixels alone (Farneback's method).

Stable Video Diffusion was conditioned on such a number, its "motion bucket", and so is the miniature.
"""

import itertools

import cv2
import numpy as np
from jaxtyping import UInt8

MOST = 3.0  # percent of the side a frame: what and above is bucket 255


def motion_of(frames: UInt8[np.ndarray, "frames height width 3"]) -> float:
    """Mean flow between neighbouring frames over all pixels, in percent of the height; 0.0 for a single frame."""
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [
        cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 11, 3, 5, 1.1, 0)
        for before, after in itertools.pairwise(grey)
    ]
    if not flows:
        return 0.0
    return float(np.mean([np.linalg.norm(flow, axis=-1).mean() for flow in flows])) * 100 / frames.shape[1]


def motion_bucket(motion: float) -> int:
    """A motion in percent of the side as the number from 0 to 255 that Stable Video Diffusion takes."""
    return round(255 * min(motion / MOST, 1.0))
