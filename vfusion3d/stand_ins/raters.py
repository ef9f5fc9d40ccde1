"""Stand-ins for the people of the user study: raters that compare whole turns by image features (DINO).

They cannot tell what people would prefer. They show that the study works, and what its figure looks like; wherever
their answers are shown, it is said that they are simulated. The network is not the CLIP that scores Tables 1 and 2, or
the study would only say these tables again. How often two of them agree is people's own number.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.functional import pil_to_tensor

from vfusion3d.data.images import on_white, resize
from vfusion3d.foundations.image_features import ImageFeatures
from vfusion3d.model.preprocess import load_image
from vfusion3d.runs.progress import tqdm
from vfusion3d.study.answers import COLUMNS, OURS, QUESTIONS, RATERS, Comparison, Item, comparisons, read_video

AGREEMENT = 0.68  # of people, which of two pictures somebody else prefers (Kirstain et al., 2023, Pick-a-Pic)
AT_ONCE = 32  # pictures that the network looks at together


def simulate_raters(
    items: Sequence[Item],
    features: ImageFeatures,
    real: Float[Tensor, "n 3 h w"],
    generator: np.random.Generator,
    *,
    raters: int = RATERS,
    agreement: float = AGREEMENT,
    seed: int = 0,
) -> pd.DataFrame:
    """The answers of simulated raters, in the form that people's have (`study.answers.COLUMNS`).

    Faithfulness is the mean cosine of a turn's frames with the input picture, quality that with the nearest of `real`,
    views of objects as they are: in [0, 1] on white. The video with more of it wins. So that raters differ as people
    do, each misjudges the difference by a normal error, as large for all items as it takes for two raters to agree in a
    share of `agreement` of the answers to a question. seed: of the sides, as in `comparisons`. Raises ValueError for an
    agreement that is not above 0.5 and below 1.
    """
    if not 0.5 < agreement < 1:
        raise ValueError(f"agreement must be above 0.5 and below 1, not {agreement}: two coins agree in half of all")
    looks = torch.cat([normalize(features(some), dim=-1).cpu() for some in real.split(AT_ONCE)])
    bar = tqdm(items, desc="simulated raters", unit="item")
    scores = {(item.task, item.key): _scores(item, features, looks) for item in bar}
    asked = [(f"simulated-{number + 1}", c) for number in range(raters) for c in comparisons(items, str(number), seed)]
    margins = np.array([_margin(scores[c.item.task, c.item.key], c) for _, c in asked])
    questions = np.array([comparison.question for _, comparison in asked])
    for question in QUESTIONS:
        some = questions == question
        margins[some] += error_for(margins[some], agreement) * generator.standard_normal(some.sum())
    rows = []
    for (rater, comparison), margin in zip(asked, margins, strict=True):
        ours = margin > 0 or (margin == 0 and generator.random() < 0.5)
        rows.append([rater, *comparison.same, comparison.left, OURS if ours else comparison.baseline])
    return pd.DataFrame(rows, columns=COLUMNS)


def error_for(margins: Float[np.ndarray, "n"], agreement: float) -> float:
    """The deviation of a normal error with which two raters agree in that share of answers, over all margins.

    A rater with error s says yes to a margin m with p = Phi(m / s); two agree with p^2 + (1 - p)^2.
    """
    typical = np.sqrt((margins**2).mean())
    if typical == 0:
        return 1.0  # nothing to see: all answers are guesses whatever the error

    def too_much(logarithm: float) -> float:
        yes = norm.cdf(margins / (typical * np.exp(logarithm)))
        return (yes**2 + (1 - yes) ** 2).mean() - agreement

    low, high = -12.0, 12.0
    if too_much(low) < 0:
        return 0.0  # too many items are a tie
    return float(typical * np.exp(brentq(too_much, low, high)))


def _margin(of_item: dict[tuple[str, str], float], comparison: Comparison) -> float:
    return of_item[OURS, comparison.question] - of_item[comparison.baseline, comparison.question]


@torch.no_grad()
def _scores(item: Item, features: ImageFeatures, looks: Float[Tensor, "n d"]) -> dict[tuple[str, str], float]:
    """By method and question: how much of what the question asks for a turn has, the mean over its frames."""
    image = on_white(pil_to_tensor(load_image(item.picture))[None])
    scores = {}
    for method, path in item.videos.items():
        video = read_video(path)
        frames = torch.cat([normalize(features(some), dim=-1).cpu() for some in video.split(AT_ONCE)])
        seen = normalize(features(resize(image, video.shape[-1])), dim=-1).cpu()
        scores[method, "quality"] = (frames @ looks.T).amax(dim=1).mean().item()
        scores[method, "faithfulness"] = (frames @ seen[0]).mean().item()
    return scores
