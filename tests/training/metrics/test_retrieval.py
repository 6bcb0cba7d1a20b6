"""Ranks on cases computed by hand; a model that knows nothing is never above chance."""

import numpy as np
import pytest

from infra.errors import DataError
from training.metrics.retrieval import hard_negative_accuracy, retrieval_scores


def test_a_hand_computed_case_with_several_texts_of_an_image() -> None:
    # Two images, three texts: texts 0 and 1 are of image 0, text 2 of image 1.
    found = retrieval_scores([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]], [0, 0, 1])
    assert found.text_ranks == (1, 2, 2)  # 0.9 > 0.2; 0.1 < 0.3; 0.4 < 0.5
    assert found.image_ranks == {0: 1, 1: 1}  # 0.9 is above 0.5, and 0.4 above 0.2 and 0.3
    assert found.metrics == {
        "image_to_text_recall_at_1": 1.0,
        "image_to_text_median_rank": 1.0,
        "text_to_image_recall_at_1": pytest.approx(1 / 3),
        "text_to_image_median_rank": 2.0,
    }


def test_a_perfect_model_finds_everything() -> None:
    metrics = retrieval_scores(np.eye(12), range(12)).metrics
    assert {value for name, value in metrics.items() if "recall" in name} == {1.0}
    assert len(metrics) == 8
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 1.0


def test_a_constant_model_finds_nothing() -> None:
    metrics = retrieval_scores(np.ones((12, 24)), [at // 2 for at in range(24)]).metrics
    assert {value for name, value in metrics.items() if "recall" in name} == {0.0}
    assert metrics["text_to_image_median_rank"] == 12
    assert metrics["image_to_text_median_rank"] == 23  # behind the 22 texts of others


def test_it_equals_a_plain_sort_where_nothing_ties() -> None:
    similarity = np.random.default_rng(0).normal(size=(20, 60))
    image_of_text = np.random.default_rng(1).permutation(np.arange(60) // 3)
    found = retrieval_scores(similarity, image_of_text.tolist())
    for text in range(60):
        assert np.argsort(-similarity[:, text]).tolist().index(image_of_text[text]) + 1 == found.text_ranks[text]
    for image in range(20):
        own = image_of_text[np.argsort(-similarity[image])] == image
        # Others before the first of its own.
        assert own.tolist().index(True) + 1 == found.image_ranks[image]


def test_the_order_of_images_and_texts_changes_nothing() -> None:
    similarity = np.random.default_rng(0).normal(size=(20, 60)).round(1)
    image_of_text = np.arange(60) // 3
    images, texts = np.random.default_rng(1).permutation(20), np.random.default_rng(2).permutation(60)
    moved = np.argsort(images)[image_of_text[texts]]
    found = retrieval_scores(similarity[images][:, texts], moved.tolist())
    assert found.metrics == retrieval_scores(similarity, image_of_text.tolist()).metrics


def test_an_image_without_a_text_is_a_candidate_only() -> None:
    found = retrieval_scores([[0.1], [0.9]], [0])
    assert found.text_ranks == (2,)
    assert found.image_ranks == {0: 1}
    assert "image_to_text_recall_at_1" not in found.metrics  # one candidate cannot be missed


def test_a_tie_with_the_wrong_caption_is_wrong() -> None:
    assert hard_negative_accuracy([0.9, 0.5, 0.1, 2.0], [0.1, 0.5, 0.2, 1.0]) == 0.5


@pytest.mark.parametrize(
    ("similarity", "image_of_text", "told"),
    [
        ([[1.0, 2.0]], [0], r"shape \(1, 2\) and the images of 1 texts"),
        ([[1.0]], [1], "images 1 to 1; expected rows 0 to 0"),
        ([[1.0]], [-1], "images -1 to -1"),
        ([[float("nan")]], [0], "image 0 and text 0 is not finite"),
    ],
)
def test_wrong_input_is_named(similarity: list[list[float]], image_of_text: list[int], told: str) -> None:
    with pytest.raises(DataError, match=told):
        retrieval_scores(similarity, image_of_text)


@pytest.mark.parametrize(("right", "wrong"), [([], []), ([1.0], []), ([float("nan")], [0.0])])
def test_pairs_that_cannot_be_compared_are_named(right: list[float], wrong: list[float]) -> None:
    with pytest.raises(DataError, match="expected as many of each"):
        hard_negative_accuracy(right, wrong)
