"""Retrieval by a model's vectors: texts found by images and images by texts, among all of the test split.

Shapes: I images, T texts, E vector width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from training.asking import Asked, Question, Reply, image_vector
from training.metrics.retrieval import RECALL_AT, retrieval_scores
from training.scoring import Scores


def add_retrieval(
    questions: Sequence[Question], replies: Mapping[Asked, Reply], shown: Callable[[Question], Asked], scores: Scores
) -> dict[str, float]:
    """Metrics both ways, `shown` being what stands for an example's image. Adds `text_to_image_recall_at_{k}` to the
    examples' scores: the share of its texts that find its image among the first k."""
    asking = [question for question in questions if question.texts]
    image_of = {question.own.image_id: image_vector(shown(question)) for question in asking}
    if len(image_of) < 2:
        return {}
    row_of = {image_id: row for row, image_id in enumerate(sorted(image_of))}
    texts = [(question, text) for question in asking for text in question.texts]
    image_IE = _vectors([image_of[image_id] for image_id in row_of], replies)
    text_TE = _vectors([text for _, text in texts], replies)
    found = retrieval_scores(image_IE @ text_TE.T, [row_of[question.own.image_id] for question, _ in texts])
    ranks: dict[str, list[int]] = {}
    for (question, _), rank in zip(texts, found.text_ranks, strict=True):
        ranks.setdefault(question.example_id, []).append(rank)
    for example_id, own in ranks.items():
        for k in (k for k in RECALL_AT if k < len(row_of)):
            scores[example_id][f"text_to_image_recall_at_{k}"] = sum(rank <= k for rank in own) / len(own)
    return found.metrics


def _vectors(asked: Sequence[Asked], replies: Mapping[Asked, Reply]) -> Any:
    return np.asarray([replies[one].numbers for one in asked], np.float64)
