"""Stand-ins for the people of the user study: raters that look at a few frames of each video through CLIP.

They cannot tell what people would prefer. They show that the study works, and what its figure looks like; wherever
their answers are shown, it is said that they are simulated.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torchvision.transforms.functional import pil_to_tensor

from vfusion3d.data.images import on_white
from vfusion3d.foundations.clip import Clip
from vfusion3d.model.preprocess import load_image
from vfusion3d.runs.progress import tqdm
from vfusion3d.study.answers import COLUMNS, OURS, QUESTIONS, RATERS, Item, comparisons, read_video


def simulate_raters(
    items: Sequence[Item],
    clip: Clip,
    generator: np.random.Generator,
    *,
    raters: int = RATERS,
    frames: int = 4,
    noise: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """The answers of simulated raters, in the form that people's have (`study.answers.COLUMNS`).

    Quality is the mean CLIP similarity of the seen frames to the item's caption, faithfulness that to its picture; the
    video with more of it wins. So that raters differ, each sees `frames` moments of every video, drawn anew for every
    question, the same of both videos, and misjudges the difference by a normal error of `noise` times its root mean
    square over the items. seed: of the sides, as in `comparisons`.
    """
    scores = {(item.task, item.key): _scores(item, clip) for item in tqdm(items, desc="simulated raters", unit="item")}
    asked = [(f"simulated-{number + 1}", c) for number in range(raters) for c in comparisons(items, str(number), seed)]
    margins = []
    for _, comparison in asked:
        moments = generator.random(frames)
        of_item = scores[comparison.item.task, comparison.item.key]
        ours, other = (of_item[name, comparison.question] for name in (OURS, comparison.baseline))
        seen = [values[(moments * len(values)).astype(int)].mean() for values in (ours, other)]
        margins.append(seen[0] - seen[1])
    margins = np.array(margins)
    questions = np.array([comparison.question for _, comparison in asked])
    for question in QUESTIONS:
        some = questions == question
        margins[some] += noise * np.sqrt((margins[some] ** 2).mean()) * generator.standard_normal(some.sum())
    rows = []
    for (rater, comparison), margin in zip(asked, margins):
        ours = margin > 0 or (margin == 0 and generator.random() < 0.5)
        rows.append([rater, *comparison.same, comparison.left, OURS if ours else comparison.baseline])
    return pd.DataFrame(rows, columns=COLUMNS)


def _scores(item: Item, clip: Clip) -> dict[tuple[str, str], np.ndarray]:
    """By method and question: the cosine of each frame of the method's video with what the question asks for."""
    image = on_white(pil_to_tensor(load_image(item.picture))[None])
    targets = {"quality": clip.text_features([item.caption]).cpu(), "faithfulness": clip.image_features(image).cpu()}
    scores = {}
    for method, path in item.videos.items():
        features = torch.cat([clip.image_features(some).cpu() for some in read_video(path).split(32)])
        scores |= {(method, question): (features @ target[0]).numpy() for question, target in targets.items()}
    return scores
