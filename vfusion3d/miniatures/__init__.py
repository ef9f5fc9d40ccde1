"""How the bundled miniatures of the foundation models were trained, and what they can do."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "aesthetic": ["spoil"],
        "evaluate": [
            *("caption_accuracy", "degradation_curves", "evaluate_videos", "motion_by_bucket", "named_by"),
            *("nearer_rate", "neighbour_accuracy", "psnr", "render_probe", "zero_shot_accuracy"),
        ],
        "make": ["make_miniature"],
        "vae": ["reconstruct"],
    },
)
