"""Near a test image: the banded search finds what a comparison of all pairs finds."""

import numpy as np
import pytest

from data_prep.near_duplicates import nearest_within


def brute_force(others: np.ndarray, tests: np.ndarray, distance: int) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    for other in others.tolist():
        best = min(((bin(other ^ test).count("1"), place) for place, test in enumerate(tests.tolist())), default=None)
        found.append((best[1], best[0]) if best is not None and best[0] <= distance else None)
    return found


@pytest.mark.parametrize("distance", [0, 1, 3, 8, 16])
def test_the_nearest_test_image_within_the_distance_is_found(distance: int) -> None:
    rng = np.random.default_rng(distance)
    tests = rng.integers(0, 2**64, 40, dtype=np.uint64)
    others = tests[rng.integers(0, 40, 200)].copy()
    for row in range(200):
        for bit in rng.choice(64, size=row % 20, replace=False):
            others[row] ^= np.uint64(1) << np.uint64(bit)
    nearest, found = nearest_within(others, tests, distance)
    expected = brute_force(others, tests, distance)
    assert any(expected) and not all(expected)
    for row, pair in enumerate(expected):
        if pair is None:
            assert nearest[row] == -1
        else:
            assert (nearest[row], found[row]) == pair


def test_without_test_images_nothing_is_near() -> None:
    none = np.empty(0, dtype=np.uint64)
    assert nearest_within(np.arange(3, dtype=np.uint64), none, 4)[0].tolist() == [-1, -1, -1]
    assert nearest_within(none, np.arange(3, dtype=np.uint64), 4)[0].tolist() == []
