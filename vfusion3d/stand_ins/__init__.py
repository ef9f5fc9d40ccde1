"""Who plays the people of the paper offline: the judge of videos, who knows the truth, and the raters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "judge": ["judge_video", "judge_videos"],
        "raters": ["simulate_raters"],
        "truth": ["how_far_round", "true_elevations", "true_orbit", "turning", "unseen_orbit"],
    },
)
