"""Whether new images look like those that a model was trained on: a two-sample test on stored features.

The maximum mean discrepancy under a Gaussian kernel as wide as the median distance (Gretton et al. 2012, JMLR 13), with
its p-value by permutation: of images that are no different, a share of p is found to be as different as these.

Shapes: N trained images, M new images, V vision width, S both together, R permutations at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_prep.features import FeatureStore

MAX_IMAGES = 1000
"""Of each kind, drawn by seed: the kernel is a matrix of both, squared."""
NUM_PERMUTATIONS = 1999
"""The least p-value is one over this and one."""
PERMUTATIONS_AT_ONCE = 128
IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Drift:
    """How far apart two sets of images are."""

    p_value: float
    discrepancy: float
    """Squared, between 0 and 2, whatever the features' unit."""
    num_trained: int
    num_new: int


def mean_features(features: FeatureStore, image_ids: Sequence[str]) -> NDArray[np.float32]:
    """float32[N, V] of at most MAX_IMAGES of the images, each the mean over its patches."""
    import numpy as np

    ids = sorted(image_ids)
    if len(ids) > MAX_IMAGES:
        ids = [ids[place] for place in np.random.default_rng(0).choice(len(ids), MAX_IMAGES, replace=False)]
    found = np.empty((len(ids), features.vision_width), dtype=np.float32)
    for first in range(0, len(ids), IMAGES_AT_ONCE):
        some = ids[first : first + IMAGES_AT_ONCE]
        found[first : first + len(some)] = features.gather(some).mean(axis=1, dtype=np.float32)
    return found


def measure_drift(trained_NV: NDArray[np.float32], new_MV: NDArray[np.float32]) -> Drift:
    """The same each time for the same features. Each of the two holds at least one image."""
    import numpy as np
    from scipy.stats import permutation_test

    num_trained, num_new = len(trained_NV), len(new_MV)
    kernel_SS = _kernel(np.concatenate([trained_NV, new_MV]))

    def discrepancy(trained_RN: NDArray[np.int64], new_RM: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        weights_RS = np.zeros((*trained_RN.shape[:-1], len(kernel_SS)))
        np.put_along_axis(weights_RS, trained_RN, 1 / num_trained, axis)
        np.put_along_axis(weights_RS, new_RM, -1 / num_new, axis)
        found_R = ((weights_RS @ kernel_SS) * weights_RS).sum(axis)
        return np.asarray(np.round(found_R, 12))  # equal ones must compare as equal

    found = permutation_test(
        (np.arange(num_trained), np.arange(num_trained, num_trained + num_new)),
        discrepancy,
        n_resamples=NUM_PERMUTATIONS,
        batch=PERMUTATIONS_AT_ONCE,
        vectorized=True,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return Drift(float(found.pvalue), float(found.statistic), num_trained, num_new)


def _kernel(features_SV: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np
    from scipy.spatial.distance import pdist, squareform

    squared = pdist(features_SV.astype(np.float64), "sqeuclidean")
    width = float(np.median(squared)) or 1.0  # all images equal
    return np.asarray(squareform(np.exp(-squared / width)) + np.eye(len(features_SV)))
