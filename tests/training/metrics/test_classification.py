"""Scores of classes on cases computed by hand, and equal to scikit-learn's."""

import random

import numpy as np
import pytest
from sklearn.metrics import classification_report, roc_auc_score, top_k_accuracy_score

from infra.errors import DataError
from training.metrics.classification import classification_scores

NAMES = [f"class {at}" for at in range(8)]
LABELS = np.random.default_rng(0).integers(7, size=200)  # class 7 has no example
SCORES = np.random.default_rng(1).normal(size=(200, 8)) + 1.5 * np.eye(8)[LABELS]
LABEL_NAMES = [NAMES[at] for at in LABELS]
PREDICTIONS = [NAMES[at] for at in SCORES.argmax(axis=1)]


def test_a_hand_computed_case() -> None:
    found = classification_scores(["cat", "cat", "dog", "dog"], ["cat", "dog", "dog", "dog"], None, ["cat", "dog"])
    assert found.confusion == ((1, 1, 0), (0, 2, 0))
    assert found.per_class["cat"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert found.per_class["dog"] == {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8)}
    assert found.metrics["accuracy"] == found.metrics["recall_micro"] == 0.75
    assert found.metrics["f1_macro"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert not {"roc_auc_macro", "top_5_accuracy"} & found.metrics.keys()


def test_scores_equal_those_of_scikit_learn() -> None:
    found = classification_scores(LABEL_NAMES, PREDICTIONS, SCORES, NAMES)
    report = classification_report(LABEL_NAMES, PREDICTIONS, output_dict=True, zero_division=0)
    assert found.metrics["accuracy"] == pytest.approx(report["accuracy"])
    for ours, theirs in {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items():
        for average in ("macro", "weighted"):
            assert found.metrics[f"{ours}_{average}"] == pytest.approx(report[f"{average} avg"][theirs])
        assert found.metrics[f"{ours}_micro"] == pytest.approx(report["accuracy"])
        for name, scores in found.per_class.items():
            assert scores[ours] == pytest.approx(report[name][theirs])
    expected = top_k_accuracy_score(LABELS, SCORES, k=5, labels=range(8))
    assert found.metrics["top_5_accuracy"] == pytest.approx(expected)


def test_the_area_under_the_curve_needs_examples_of_every_class() -> None:
    found = classification_scores(LABEL_NAMES, PREDICTIONS, SCORES, NAMES)
    assert "roc_auc_macro" not in found.metrics
    assert "roc_auc" not in found.per_class.get(NAMES[7], {})
    names, scores = NAMES[:7], SCORES[:, :7]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = classification_scores(LABEL_NAMES, PREDICTIONS_OF_7, shares, names)
    expected = roc_auc_score(LABELS, shares, multi_class="ovr", average="macro")
    assert found.metrics["roc_auc_macro"] == pytest.approx(expected)
    assert found.per_class[names[0]]["roc_auc"] == pytest.approx(roc_auc_score(LABELS == 0, shares[:, 0]))


PREDICTIONS_OF_7 = [NAMES[at] for at in SCORES[:, :7].argmax(axis=1)]


def test_an_answer_that_is_no_class_is_wrong_and_counted_apart() -> None:
    found = classification_scores(["cat", "dog"], ["cat", "a horse"], None, ["cat", "dog"])
    assert found.metrics["accuracy"] == 0.5
    assert found.confusion == ((1, 0, 0), (0, 0, 1))
    assert found.metrics["recall_macro"] == 0.5
    assert found.per_class.keys() == {"cat", "dog"}


def test_a_tie_at_the_last_place_is_not_among_the_best() -> None:
    scores = [[0.5, 0.5, 0.5], [0.9, 0.8, 0.1]]
    found = classification_scores(["a", "b"], ["a", "a"], scores, ["a", "b", "c"], top_k=2)
    assert found.metrics["top_2_accuracy"] == 0.5


def test_the_order_of_the_rows_changes_no_bit() -> None:
    order = list(range(200))
    random.Random(3).shuffle(order)
    shuffled = classification_scores(
        [LABEL_NAMES[at] for at in order], [PREDICTIONS[at] for at in order], SCORES[order], NAMES
    )
    assert shuffled == classification_scores(LABEL_NAMES, PREDICTIONS, SCORES, NAMES)


@pytest.mark.parametrize(
    ("labels", "predictions", "scores", "told"),
    [
        ([], [], None, "at least one"),
        (["cat"], ["cat", "dog"], None, "1 labels and 2 predictions"),
        (["bird"], ["cat"], None, "the label 'bird'"),
        (["cat"], ["cat"], [[0.1]], r"shape \(1, 1\); expected \(1, 2\)"),
        (["cat"], ["cat"], [[0.1, float("nan")]], "all finite"),
    ],
)
def test_wrong_input_is_named(
    labels: list[str], predictions: list[str], scores: list[list[float]] | None, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        classification_scores(labels, predictions, scores, ["cat", "dog"])


def test_a_class_named_twice_is_refused() -> None:
    with pytest.raises(DataError, match="a class twice"):
        classification_scores(["cat"], ["cat"], None, ["cat", "cat"])
