from .aesthetic import spoil
from .evaluate import (
    caption_accuracy,
    degradation_curves,
    evaluate_videos,
    motion_by_bucket,
    named_by,
    nearer_rate,
    neighbour_accuracy,
    psnr,
    render_probe,
    zero_shot_accuracy,
)
from .make import make_miniature
from .vae import reconstruct
