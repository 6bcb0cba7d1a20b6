"""Retrieval scores: recall at K and median rank, both ways, and accuracy on pairs of a right and a wrong caption.

Shapes: I images, T texts. A tie counts against the model, so that one that scores everything alike gets no hit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import DataError

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalScores:
    """`{way}_recall_at_{k}` and `{way}_median_rank`, the way being `image_to_text` or `text_to_image`.

    A recall is absent where there are no more than k candidates: everything would be found."""

    metrics: dict[str, float]
    image_ranks: dict[int, int]
    """By row of the matrix: the rank, from 1, of the best of the image's own texts. Images without a text are only
    candidates, and have none."""
    text_ranks: tuple[int, ...]
    """By column: the rank, from 1, of the text's own image."""


def retrieval_scores(similarity_IT: ArrayLike, image_of_text: Sequence[int]) -> RetrievalScores:
    """`image_of_text[t]` is the row of the image that text t belongs to; an image may have several texts.

    Raises DataError on shapes that do not fit, on values that are not finite and on an image out of range.
    """
    similarity, image_of = np.asarray(similarity_IT, np.float64), np.asarray(image_of_text, np.int64)
    _check(similarity, image_of)
    num_images, num_texts = similarity.shape
    own_IT = image_of[None, :] == np.arange(num_images)[:, None]

    # Its own image is as similar as itself, so the count starts at 1.
    text_ranks = (similarity >= similarity[image_of, np.arange(num_texts)]).sum(axis=0)
    best_I = np.where(own_IT, similarity, -np.inf).max(axis=1)
    image_ranks = 1 + ((similarity >= best_I[:, None]) & ~own_IT).sum(axis=1)
    asked = np.flatnonzero(own_IT.any(axis=1))
    metrics = _scores("image_to_text", image_ranks[asked], num_texts)
    metrics |= _scores("text_to_image", text_ranks, num_images)
    ranks = {int(image): int(image_ranks[image]) for image in asked}
    return RetrievalScores(metrics, ranks, tuple(text_ranks.tolist()))


def hard_negative_accuracy(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Share of the pairs in which the right caption's score is strictly above the wrong one's.

    Raises DataError on no pairs, on lengths that differ and on scores that are not finite.
    """
    rights, wrongs = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
    if rights.shape != wrongs.shape or not rights.size or not np.isfinite([rights, wrongs]).all():
        raise DataError(
            f"found {rights.size} scores of right and {wrongs.size} of wrong captions; expected as many of each, at "
            "least one, and all finite. Leave out captions without a negative."
        )
    return float(np.mean(rights > wrongs))


def _check(similarity: NDArray[np.float64], image_of: NDArray[np.int64]) -> None:
    if similarity.ndim != 2 or similarity.shape[1:] != image_of.shape or not similarity.size:
        raise DataError(
            f"found similarities of shape {similarity.shape} and the images of {image_of.size} texts; expected "
            "[images, texts], and one image for each text."
        )
    if image_of.min() < 0 or image_of.max() >= len(similarity):
        raise DataError(
            f"found texts of images {image_of.min()} to {image_of.max()}; expected rows 0 to {len(similarity) - 1} of "
            "the matrix. Number the images as the matrix does."
        )
    if not np.isfinite(similarity).all():
        image, text = np.argwhere(~np.isfinite(similarity))[0]
        raise DataError(f"the similarity of image {image} and text {text} is not finite; expected finite numbers.")


def _scores(way: str, ranks: NDArray[np.int64], num_candidates: int) -> dict[str, float]:
    found = {f"{way}_recall_at_{k}": float(np.mean(ranks <= k)) for k in RECALL_AT if k < num_candidates}
    return found | {f"{way}_median_rank": float(np.median(ranks))}
