"""Intervals cover what they promise, only when images and not rows are resampled."""

import random

import numpy as np
import pytest

from infra.errors import DataError
from training.metrics.bootstrap import interval, paired_gain

NUM_IMAGES = 60
ROWS_OF_AN_IMAGE = 5
CLUSTERS = [f"image-{at // ROWS_OF_AN_IMAGE}" for at in range(NUM_IMAGES * ROWS_OF_AN_IMAGE)]


def clustered_scores(generator: np.random.Generator) -> np.ndarray:
    """Around 0, rows of one image alike: the mean of a set varies mostly with its images."""
    images = generator.normal(0, 1, NUM_IMAGES).repeat(ROWS_OF_AN_IMAGE)
    return images + generator.normal(0, 0.5, len(images))


def test_the_interval_of_two_equal_images_is_their_value() -> None:
    found = interval([0.25, 0.75, 0.5], ["a", "a", "b"])
    assert (found.low, found.high) == (0.5, 0.5)


def test_a_resampled_mean_is_a_ratio_of_sums() -> None:
    """One image has three rows of 1, the other one row of 0: the draws give 1, 3/4 (half of them) or 0."""
    values, clusters = [1, 1, 1, 0], ["a", "a", "a", "b"]
    whole = interval(values, clusters, 0.9)
    assert (whole.low, whole.high) == (0.0, 1.0)
    half = interval(values, clusters, 0.3)
    assert (half.low, half.high) == (0.75, 0.75)


def test_the_interval_of_independent_rows_is_that_of_the_normal_distribution() -> None:
    generator = np.random.default_rng(3)
    values = (generator.random(4000) < 0.3).astype(float)
    found = interval(values, [str(at) for at in range(4000)])
    half_width = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 4000)
    assert found.low == pytest.approx(values.mean() - half_width, abs=half_width / 10)
    assert found.high == pytest.approx(values.mean() + half_width, abs=half_width / 10)


def test_the_interval_covers_the_truth_as_often_as_it_says_and_would_not_without_clusters() -> None:
    generator = np.random.default_rng(0)
    covered = covered_by_rows = 0
    for _ in range(300):
        values = clustered_scores(generator)
        found = interval(values, CLUSTERS)
        by_rows = interval(values, [str(at) for at in range(len(values))])
        covered += found.low <= 0 <= found.high
        covered_by_rows += by_rows.low <= 0 <= by_rows.high
    assert 0.90 <= covered / 300 <= 0.985
    assert covered_by_rows / 300 < 0.8


def test_the_order_of_the_rows_changes_no_bit_and_the_seed_does() -> None:
    values = clustered_scores(np.random.default_rng(1)).tolist()
    order = list(range(len(values)))
    random.Random(2).shuffle(order)
    found = interval(values, CLUSTERS)
    assert interval([values[at] for at in order], [CLUSTERS[at] for at in order]) == found
    assert interval(values, CLUSTERS, seed=1) != found


def test_the_memory_bound_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = clustered_scores(np.random.default_rng(1))
    found = interval(values, CLUSTERS)
    monkeypatch.setattr("training.metrics.bootstrap._DRAWS_AT_ONCE", 7 * NUM_IMAGES)
    assert interval(values, CLUSTERS) == found


def test_the_gain_is_paired() -> None:
    """Scores that vary a lot, and a gain that is the same on every example: it is known exactly."""
    old = clustered_scores(np.random.default_rng(4)).round(6)
    found = paired_gain(old, old + 0.125, CLUSTERS, above=0.1)
    assert found.gain == pytest.approx(0.125)
    assert (found.interval.low, found.interval.high) == (pytest.approx(0.125), pytest.approx(0.125))
    assert (found.probability, found.num_images) == (1.0, NUM_IMAGES)
    assert paired_gain(old, old + 0.125, CLUSTERS, above=0.2).probability == 0.0


def test_equal_models_gain_exactly_nothing() -> None:
    old = clustered_scores(np.random.default_rng(5))
    found = paired_gain(old, old, CLUSTERS)
    assert (found.gain, found.interval.low, found.interval.high, found.probability) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "clusters", "told"),
    [
        ([], [], "at least one"),
        ([1.0], ["a", "b"], r"shape \(1,\) and 2 image ids"),
        ([1.0, float("nan")], ["a", "b"], "value 1 is nan"),
    ],
)
def test_wrong_input_is_named(values: list[float], clusters: list[str], told: str) -> None:
    with pytest.raises(DataError, match=told):
        interval(values, clusters)


def test_models_with_other_numbers_of_examples_are_not_paired() -> None:
    with pytest.raises(DataError, match="2 values of the champion and 1 of the challenger"):
        paired_gain([1.0, 0.0], [1.0], ["a", "b"])
