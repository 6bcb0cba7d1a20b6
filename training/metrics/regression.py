"""Scores of predicted numbers: mean squared error, Pearson's and Spearman's correlation.

Shapes: N examples, K numbers of each.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import DataError


@dataclass(frozen=True)
class RegressionScores:
    """Under the keys `mse`, `pearson` and `spearman`. A correlation with a constant is absent: it has no value."""

    metrics: dict[str, float]
    """Means over the numbers; absent where one of them lacks the score, so that a mean is always over all."""
    per_number: tuple[dict[str, float], ...]


def regression_scores(targets_NK: ArrayLike, predictions_NK: ArrayLike) -> RegressionScores:
    """Does not depend on the order of the rows. Raises DataError on shapes that differ, on no rows and on values that
    are not finite."""
    targets, predictions = np.asarray(targets_NK, np.float64), np.asarray(predictions_NK, np.float64)
    if targets.shape != predictions.shape or targets.ndim != 2 or not targets.size:
        raise DataError(
            f"found targets of shape {targets.shape} and predictions of shape {predictions.shape}; expected "
            "[examples, numbers] of both, and at least one example. Pass as many numbers for each."
        )
    for kind, values in (("target", targets), ("prediction", predictions)):
        if not np.isfinite(values).all():
            row, number = np.argwhere(~np.isfinite(values))[0]
            raise DataError(f"{kind} {number} of row {row} is {values[row, number]}; expected finite numbers.")
    per_number = tuple(_one(targets[:, at], predictions[:, at]) for at in range(targets.shape[1]))
    keys = [key for key in ("mse", "pearson", "spearman") if all(key in scores for scores in per_number)]
    means = {key: math.fsum(scores[key] for scores in per_number) / len(per_number) for key in keys}
    return RegressionScores(means, per_number)


def _one(targets: NDArray[np.float64], predictions: NDArray[np.float64]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    # Rows in an order of their own: the order they came in cannot show in the last bits.
    order = np.lexsort((predictions, targets))
    targets, predictions = targets[order], predictions[order]
    scores = {"mse": float(np.mean((targets - predictions) ** 2))}
    if np.ptp(targets) > 0 and np.ptp(predictions) > 0:
        scores["pearson"] = float(pearsonr(targets, predictions).statistic)
        scores["spearman"] = float(spearmanr(targets, predictions).statistic)
    return {key: value for key, value in scores.items() if math.isfinite(value)}
