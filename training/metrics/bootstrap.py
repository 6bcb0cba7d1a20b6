"""How sure a mean is: percentile bootstrap over images.

Examples of one image are not independent, so whole images are drawn with replacement, and a resampled mean is the
ratio of two sums. Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; for clusters Field and
Welsh 2007, "Bootstrapping clustered data". With few images (below about twenty) these intervals are too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import DataError

NUM_RESAMPLES = 2000
_DRAWS_AT_ONCE = 4_000_000
"""Bounds memory: 64 MB were measured."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class PairedGain:
    """What a challenger gains over a champion on the same examples."""

    gain: float
    """Difference of the two means."""
    interval: Interval
    """Of the gain, two-sided."""
    probability: float
    """Share of the resamples whose gain is above the asked one."""
    num_images: int


def interval(values: ArrayLike, clusters: Sequence[str], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Of the mean of `values`, of which `clusters` names the images. Does not depend on the order of the rows.

    Raises DataError on no values, on values that are not finite and on lengths that differ.
    """
    return _between(_resampled_means(*_by_cluster(values, clusters), seed), confidence)


def paired_gain(
    champion_values: ArrayLike,
    challenger_values: ArrayLike,
    clusters: Sequence[str],
    confidence: float = 0.95,
    above: float = 0.0,
    seed: int = 0,
) -> PairedGain:
    """The gain of the challenger's mean, row i of both being the same example. Raises as `interval` does."""
    old, new = np.asarray(champion_values, np.float64), np.asarray(challenger_values, np.float64)
    if old.shape != new.shape:
        raise DataError(
            f"found {old.size} values of the champion and {new.size} of the challenger; expected the same examples of "
            "both. Evaluate both on the same test rows."
        )
    sums, sizes = _by_cluster(new - old, clusters)
    gains = _resampled_means(sums, sizes, seed)
    return PairedGain(
        gain=float(sums.sum() / sizes.sum()),
        interval=_between(gains, confidence),
        probability=float(np.mean(gains > above)),
        num_images=len(sums),
    )


def _by_cluster(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(sum, number) of the values of each cluster, the clusters in the order of their names."""
    rows = np.asarray(values, np.float64)
    if rows.shape != (len(clusters),) or not rows.size:
        raise DataError(
            f"found values of shape {rows.shape} and {len(clusters)} image ids; expected one id for each value, and at "
            "least one."
        )
    if not np.isfinite(rows).all():
        at = int(np.flatnonzero(~np.isfinite(rows))[0])
        raise DataError(f"value {at} is {rows[at]}; expected finite values. Leave out examples without a score.")
    names, of_row = np.unique(np.asarray(clusters), return_inverse=True)
    # Sums of sorted values: the order of the rows cannot show in the last bits.
    order = np.lexsort((rows, of_row))
    sums = np.bincount(of_row[order], weights=rows[order], minlength=len(names)).astype(np.float64)
    return sums, np.bincount(of_row, minlength=len(names)).astype(np.int64)


def _resampled_means(sums: NDArray[np.float64], sizes: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    means = np.empty(NUM_RESAMPLES)
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    alike = bool((sizes == sizes[0]).all())
    for start in range(0, NUM_RESAMPLES, at_once):
        num_rows = min(at_once, NUM_RESAMPLES - start)
        drawn = generator.integers(len(sums), size=(num_rows, len(sums)))
        num_values = len(sums) * sizes[0] if alike else sizes[drawn].sum(axis=1)
        means[start : start + num_rows] = sums[drawn].sum(axis=1) / num_values
    return means


def _between(means: NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
