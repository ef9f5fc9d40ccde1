"""What is done with synthetic videos before anything learns from them (section 3.2): filter, elevations, masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "curate": ["elevation_model", "judged_features", "new_labeller", "orbit_features", "videos_to_judge"],
        "elevation": ["ELEVATION_VIEWS", "grouped", "mean_error", "predict_by_groups"],
        "features": ["frame_features", "video_features"],
        "judgements": ["JUDGEMENTS", "Judgements"],
        "judging": ["Judging", "judging_widget"],
        "labels": ["label_videos"],
        "masks": ["mask_iou", "with_patches"],
        "quality": ["guesses", "held_out_scores", "quality_scores", "report", "train_filter"],
    },
)
