"""Retrieval from the vectors that a model replied."""

import pytest

from training.asking import NO_IMAGE, Asked, Question, Reply, image_vector
from training.finding import add_retrieval
from training.scoring import Scores


def question(image: str, other: str, *texts: str) -> Question:
    own = Asked(image, "caption:")
    blind = own._replace(image_id="blind-")
    asked = tuple(Asked(NO_IMAGE, text, "text_vector") for text in texts)
    return Question(f"of {image}", "caption", other, own, own._replace(image_id=other), blind, texts=asked)


QUESTIONS = [question("a", "b", "a one", "a two"), question("b", "c", "b one"), question("c", "a", "c one")]
VECTORS = {"a": (1.0, 0.0, 0.0), "b": (0.0, 1.0, 0.0), "c": (0.0, 0.0, 1.0), "blind-": (0.6, 0.6, 0.52)}
REPLIES = {image_vector(Asked(name, "")): Reply(numbers=vector) for name, vector in VECTORS.items()} | {
    Asked(NO_IMAGE, "a one", "text_vector"): Reply(numbers=(0.9, 0.1, 0.0)),
    Asked(NO_IMAGE, "a two", "text_vector"): Reply(numbers=(0.1, 0.9, 0.0)),  # finds b first
    Asked(NO_IMAGE, "b one", "text_vector"): Reply(numbers=(0.0, 0.9, 0.1)),
    Asked(NO_IMAGE, "c one", "text_vector"): Reply(numbers=(0.0, 0.0, 1.0)),
}


def test_texts_find_their_images_and_an_example_scores_the_share_of_its_texts() -> None:
    scores: Scores = {f"of {name}": {} for name in "abc"}
    metrics = add_retrieval(QUESTIONS, REPLIES, lambda one: one.own, scores)
    assert metrics["text_to_image_recall_at_1"] == pytest.approx(3 / 4)
    assert scores["of a"] == {"text_to_image_recall_at_1": 0.5}
    assert scores["of b"] == scores["of c"] == {"text_to_image_recall_at_1": 1.0}


def test_with_swapped_images_or_none_nothing_is_found() -> None:
    for shown in (lambda one: one.control, lambda one: one.blind):
        scores: Scores = {f"of {name}": {} for name in "abc"}
        metrics = add_retrieval(QUESTIONS, REPLIES, shown, scores)
        assert metrics["text_to_image_recall_at_1"] <= 1 / 4


def test_a_model_without_vectors_has_no_recall() -> None:
    assert add_retrieval([question("a", "b")], {}, lambda one: one.own, {"of a": {}}) == {}
