"""Images that look like a test image, by the bits in which their perceptual hashes differ.

Images are compared to test images only, never to each other: near-duplicates of near-duplicates link most of a
synthetic set into one group (at distance 8 half of one set, measured).
Shapes: M test images, N others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HASH_BITS = 64


def nearest_within(
    others_N: NDArray[np.uint64], tests_M: NDArray[np.uint64], distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For each of the N the place of its nearest test image within `distance` bits (the first of several; -1 where
    there is none), and that distance.

    Two hashes that differ in at most d bits agree on at least one of d + 1 bands (multi-index hashing, Norouzi et al.
    2012, https://arxiv.org/abs/1307.2982), so only those that share a band are compared."""
    import numpy as np

    nearest_N = np.full(len(others_N), -1, dtype=np.int64)
    found_N = np.full(len(others_N), distance + 1, dtype=np.int32)
    for shift, width in _bands(distance + 1):
        mask = np.uint64((1 << width) - 1)
        bands_M = (tests_M >> np.uint64(shift)) & mask
        order_M = np.argsort(bands_M, kind="stable")
        sorted_M = bands_M[order_M]
        bands_N = (others_N >> np.uint64(shift)) & mask
        starts = np.searchsorted(sorted_M, bands_N, side="left")
        stops = np.searchsorted(sorted_M, bands_N, side="right")
        for other in np.flatnonzero(stops > starts):
            candidates = order_M[starts[other] : stops[other]]
            distances = np.bitwise_count(tests_M[candidates] ^ others_N[other])
            best = min(zip(distances.tolist(), candidates.tolist(), strict=True))
            if best < (found_N[other], nearest_N[other]):
                found_N[other], nearest_N[other] = best
    return nearest_N, found_N


def _bands(count: int) -> Iterator[tuple[int, int]]:
    """(shift, width) of `count` bands of bits, together all 64."""
    edges = [HASH_BITS * number // count for number in range(count + 1)]
    return ((start, stop - start) for start, stop in itertools.pairwise(edges))
