"""Whether a confidence means what it says: expected calibration error.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2: equal-width bins (low, high], the first of them
with its lower end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import DataError


@dataclass(frozen=True)
class CalibrationBin:
    """The answers whose confidence lies in one bin. A bin without answers is not listed."""

    low: float
    high: float
    num_examples: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    error: float
    """Mean distance of accuracy and confidence, 0..1, bins weighted by their examples."""
    bins: tuple[CalibrationBin, ...]


def calibration(confidences: Sequence[float], correct: Sequence[float], num_bins: int = 15) -> Calibration:
    """`correct` is 0 or 1, or in between where an answer is partly right. Does not depend on the order of the rows.

    Raises DataError on no answers, on lengths that differ and on values outside 0..1.
    """
    if len(confidences) != len(correct) or not len(correct):
        raise DataError(
            f"found {len(confidences)} confidences and {len(correct)} answers; expected as many of each, and at least "
            "one. Leave out answers without a confidence."
        )
    for kind, values in (("confidence", confidences), ("correctness", correct)):
        if wrong := [value for value in values if not 0 <= value <= 1]:
            raise DataError(f"found a {kind} of {wrong[0]}; expected 0 to 1. Pass probabilities, not logits.")
    edges = np.linspace(0, 1, num_bins + 1)
    of_row = np.searchsorted(edges[1:-1], np.asarray(confidences, np.float64), side="left")
    bins, error = [], 0.0
    for number in np.unique(of_row).tolist():
        rows: list[int] = np.flatnonzero(of_row == number).tolist()
        # Exactly rounded sums, so that the order of the rows cannot show in the last bits.
        confident = math.fsum(confidences[row] for row in rows)
        right = math.fsum(correct[row] for row in rows)
        error += abs(right - confident) / len(correct)
        low, high = float(edges[number]), float(edges[number + 1])
        bins.append(CalibrationBin(low, high, len(rows), confident / len(rows), right / len(rows)))
    return Calibration(error, tuple(bins))
