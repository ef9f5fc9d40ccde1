"""The quality filter: which synthetic videos show one object that turns (section 3.2).

Features of 8 uniform frames, averaged, and a support vector machine on top, trained on videos that were judged one by
one.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

QUALITY_FRAMES = 8
C = 3.0  # of the support vector machine: the price of an error beside that of a narrow margin
FOLDS = 10  # of held-out scores: each filter learns from nine tenths of the judged videos
REPEATS = 10


@dataclass(frozen=True)
class FilterReport:
    """A filter on held-out labels. roc: rates of false and of true positives. kept: share of videos it keeps."""

    accuracy: float
    auc: float
    roc: Float[np.ndarray, "2 thresholds"]
    good: float
    kept: float
    videos: int


def train_filter(features: Float[np.ndarray, "videos width"], good: Bool[np.ndarray, "videos"]) -> Pipeline:
    """A support vector machine (RBF kernel) on standardised features.

    Raises ValueError where all labels are the same.
    """
    good = np.asarray(good, bool)
    if len(set(good.tolist())) < 2:
        raise ValueError(f"all {len(good)} labels are {'good' if good.all() else 'bad'}: label some of the other kind")
    return make_pipeline(StandardScaler(), SVC(C=C)).fit(features, good)


def quality_scores(model: Pipeline, features: Float[np.ndarray, "videos width"]) -> Float[np.ndarray, "videos"]:
    """How far each video is on the good side: from 0 on the filter keeps it; a reader may choose another threshold."""
    return model.decision_function(features)


def report(scores: Float[np.ndarray, "videos"], good: Bool[np.ndarray, "videos"]) -> FilterReport:
    """Measure a filter by its scores of videos that it did not learn from.

    AUC and ROC are NaN where only one kind is there.
    """
    good, scores = np.asarray(good, bool), np.asarray(scores)
    both = 0 < good.sum() < len(good)
    roc = np.stack(roc_curve(good, scores)[:2]) if both else np.full((2, 1), np.nan)
    return FilterReport(
        accuracy=float(((scores >= 0) == good).mean()),
        auc=float(roc_auc_score(good, scores)) if both else float("nan"),
        roc=roc,
        good=float(good.mean()),
        kept=float((scores >= 0).mean()),
        videos=len(good),
    )


def held_out_scores(
    features: Float[np.ndarray, "videos width"],
    good: Bool[np.ndarray, "videos"],
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Float[np.ndarray, "repeats videos"]:
    """Scores of every judged video by filters that did not learn from it: `repeats` divisions into `folds` parts.

    The parts (no more than there are videos of the rarer kind) have equal shares of good videos; each is scored by a
    filter that learned from the others. So `report(row, good)` of each row measures a filter, and the rows tell how
    much it depends on the division. Raises ValueError where there are fewer than two videos of a kind.
    """
    good = np.asarray(good, bool)
    least = min(good.sum(), (~good).sum())
    if least < 2:
        raise ValueError(f"{good.sum()} good and {(~good).sum()} bad labels: to hold some out, label two of each kind")
    scores = np.empty((repeats, len(good)))
    parts = min(folds, least)
    for row in range(repeats):
        for learn, test in StratifiedKFold(parts, shuffle=True, random_state=seed + row).split(features, good):
            scores[row, test] = quality_scores(train_filter(features[learn], good[learn]), features[test])
    return scores


def guesses(features: Float[np.ndarray, "videos width"], conditions: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How well filters guess each of several conditions (columns of true and false, one row a video).

    One row a condition: the share of videos for which it `holds`, the accuracy of `always the commoner` answer, and of
    filters on videos that they did not learn from (`held_out_scores`) the `accuracy` and the `AUC`; both are NaN where
    a condition holds, or fails, for under two videos.
    """
    rows = {}
    for name in conditions:
        holds = conditions[name].to_numpy(bool)
        share = holds.mean()
        accuracy = auc = float("nan")
        if min(holds.sum(), (~holds).sum()) >= 2:
            reports = [report(row, holds) for row in held_out_scores(features, holds, seed=seed)]
            accuracy = np.mean([one.accuracy for one in reports])
            auc = np.mean([one.auc for one in reports])
        rows[name] = {"holds": share, "always the commoner": max(share, 1 - share), "accuracy": accuracy, "AUC": auc}
    return pd.DataFrame(rows).T
