"""Scores of classes: accuracy, top-k, precision, recall, F1, ROC-AUC and the confusion matrix, by scikit-learn.

Shapes: N examples, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import DataError

_AVERAGES = ("micro", "macro", "weighted")
_KINDS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class ClassificationScores:
    """Macro and weighted means are over the classes that were labelled or predicted, as scikit-learn's are."""

    metrics: dict[str, float]
    """`accuracy`, `{precision,recall,f1}_{micro,macro,weighted}` and, from scores, `top_{k}_accuracy` (absent with k
    classes or fewer) and `roc_auc_macro` (one against the rest; absent where a class has no example, or all)."""
    per_class: dict[str, dict[str, float]]
    """`precision`, `recall`, `f1`, and `roc_auc` where it is defined, of those classes. A class that is never
    predicted has precision 0."""
    confusion: tuple[tuple[int, ...], ...]
    """C rows of labels, C + 1 columns of predictions, in the order of the names; the last counts answers that are no
    class at all, which free text may be."""


def classification_scores(
    labels: Sequence[str],
    predictions: Sequence[str],
    scores_NC: ArrayLike | None,
    names: Sequence[str],
    top_k: int = 5,
) -> ClassificationScores:
    """`scores_NC` is higher for likelier classes. A tie at the k-th place counts against the model.

    Does not depend on the order of the rows. Raises DataError on no rows, on lengths that differ, on a label that is
    no class and on scores that are not finite.
    """
    labelled, predicted = _codes(labels, predictions, names)
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(labelled, predicted, labels=range(len(names) + 1))[:-1]
    found: set[int] = {*labelled.tolist(), *predicted.tolist()}
    present = [code for code in range(len(names)) if code in found]
    metrics = {"accuracy": float(np.mean(labelled == predicted))} | _averages(labelled, predicted, present)
    per_class = _per_class(labelled, predicted, present, names)
    if scores_NC is not None:
        scores = _checked(scores_NC, len(labelled), len(names))
        if top_k < len(names):
            own_N1 = scores[np.arange(len(labelled)), labelled][:, None]
            metrics[f"top_{top_k}_accuracy"] = float(np.mean((scores >= own_N1).sum(axis=1) <= top_k))
        areas = _areas(labelled, scores)
        for code, area in areas.items():
            per_class[names[code]]["roc_auc"] = area
        if len(areas) == len(names):
            metrics["roc_auc_macro"] = math.fsum(areas.values()) / len(areas)
    return ClassificationScores(metrics, per_class, tuple(tuple(row) for row in matrix.tolist()))


def _codes(
    labels: Sequence[str], predictions: Sequence[str], names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in `names`; one past the last for a prediction that is no class."""
    if len(labels) != len(predictions) or not labels:
        raise DataError(
            f"found {len(labels)} labels and {len(predictions)} predictions; expected as many of each, and at least "
            "one. Pass one prediction for each label."
        )
    places = {name: place for place, name in enumerate(names)}
    unknown = sorted(set(labels) - set(names))
    if unknown or len(places) != len(names):
        problem = f"the label {unknown[0]!r}" if unknown else "a class twice"
        raise DataError(f"found {problem}; expected labels of distinct classes: {', '.join(sorted(places))}.")
    labelled = np.array([places[label] for label in labels])
    return labelled, np.array([places.get(prediction, len(names)) for prediction in predictions])


def _checked(scores_NC: ArrayLike, num_examples: int, num_classes: int) -> NDArray[np.float64]:
    scores = np.asarray(scores_NC, np.float64)
    if scores.shape != (num_examples, num_classes) or not np.isfinite(scores).all():
        raise DataError(
            f"found scores of shape {scores.shape}; expected ({num_examples}, {num_classes}), one for each example and "
            "class, and all finite."
        )
    return scores


def _averages(labelled: NDArray[np.int64], predicted: NDArray[np.int64], present: list[int]) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    found: dict[str, float] = {}
    for average in _AVERAGES:
        *values, _ = precision_recall_fscore_support(
            labelled, predicted, labels=present, average=average, zero_division=0
        )
        found |= {f"{kind}_{average}": float(value) for kind, value in zip(_KINDS, values, strict=True)}
    return found


def _per_class(
    labelled: NDArray[np.int64], predicted: NDArray[np.int64], present: list[int], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    from sklearn.metrics import precision_recall_fscore_support

    columns: Any = precision_recall_fscore_support(labelled, predicted, labels=present, average=None, zero_division=0)
    return {
        names[code]: {kind: float(columns[at][row]) for at, kind in enumerate(_KINDS)}
        for row, code in enumerate(present)
    }


def _areas(labelled: NDArray[np.int64], scores: NDArray[np.float64]) -> dict[int, float]:
    """ROC-AUC by class, of those that have examples and are not all."""
    from sklearn.metrics import roc_auc_score

    found: dict[int, float] = {}
    for code in range(scores.shape[1]):
        own = labelled == code
        if own.any() and not own.all():
            found[code] = float(roc_auc_score(own, scores[:, code]))
    return found
