from .curate import elevation_model, judged_features, new_labeller, orbit_features, videos_to_judge
from .elevation import ELEVATION_VIEWS, grouped, mean_error, predict_by_groups
from .features import frame_features, video_features
from .judgements import JUDGEMENTS, Judgements
from .judging import Judging, judging_widget
from .labels import label_videos
from .masks import mask_iou, with_patches
from .quality import guesses, held_out_scores, quality_scores, report, train_filter
