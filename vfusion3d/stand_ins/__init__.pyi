from .judge import judge_video, judge_videos
from .raters import simulate_raters
from .truth import how_far_round, true_elevations, true_orbit, turning, unseen_orbit
