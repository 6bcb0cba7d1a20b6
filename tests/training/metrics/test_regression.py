"""Scores of numbers equal SciPy's and scikit-learn's, and have stated corner cases."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error

from infra.errors import DataError
from training.metrics.regression import regression_scores

TARGETS = np.random.default_rng(0).normal(size=(50, 2)).round(1)  # rounded, so that ranks tie
PREDICTIONS = (TARGETS + np.random.default_rng(1).normal(size=(50, 2))).round(1)


def test_a_hand_computed_case() -> None:
    found = regression_scores([[1], [2], [3]], [[1], [4], [9]])
    assert found.metrics["mse"] == pytest.approx((0 + 4 + 36) / 3)
    assert found.metrics["spearman"] == pytest.approx(1.0)
    assert found.metrics["pearson"] == pytest.approx(8 / (2 * (98 / 3)) ** 0.5)


def test_scores_equal_those_of_scipy_and_scikit_learn() -> None:
    found = regression_scores(TARGETS, PREDICTIONS)
    for at in range(2):
        target, prediction = TARGETS[:, at], PREDICTIONS[:, at]
        assert found.per_number[at] == {
            "mse": pytest.approx(mean_squared_error(target, prediction)),
            "pearson": pytest.approx(pearsonr(target, prediction).statistic),
            "spearman": pytest.approx(spearmanr(target, prediction).statistic),
        }
    for key, value in found.metrics.items():
        assert value == pytest.approx((found.per_number[0][key] + found.per_number[1][key]) / 2)


@pytest.mark.filterwarnings("error")
def test_a_constant_has_no_correlation() -> None:
    constant = np.full((50, 2), 0.1)
    constant[:, 0] = PREDICTIONS[:, 0]
    found = regression_scores(TARGETS, constant)
    assert found.per_number[0].keys() == {"mse", "pearson", "spearman"}
    assert found.per_number[1].keys() == found.metrics.keys() == {"mse"}
    assert regression_scores([[1.0]], [[2.0]]).metrics == {"mse": 1.0}


def test_the_order_of_the_rows_changes_no_bit() -> None:
    order = np.random.default_rng(2).permutation(50)
    assert regression_scores(TARGETS[order], PREDICTIONS[order]) == regression_scores(TARGETS, PREDICTIONS)


@pytest.mark.parametrize(
    ("targets", "predictions", "told"),
    [
        ([[1.0]], [[1.0, 2.0]], r"shape \(1, 1\) and predictions of shape \(1, 2\)"),
        (np.empty((0, 1)), np.empty((0, 1)), "at least one"),
        ([[1.0], [2.0]], [[1.0], [float("inf")]], "prediction 0 of row 1 is inf"),
    ],
)
def test_wrong_input_is_named(targets: list[list[float]], predictions: list[list[float]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        regression_scores(targets, predictions)
