"""What a tuned pair of towers can do without more training: name classes by prompts, find texts and images.

Shapes: B images, C classes, X texts, E shared width, Q queries, N candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.lit.model import LitModel
from training.lit.text_tower import TextTower, padded
from training.regimes.config import LABEL

TEXTS_PER_BATCH = 256


def text_vectors(model: LitModel, tower: TextTower, texts: Sequence[str], max_tokens: int) -> Tensor:
    """float32[X, E] of length 1."""
    ids = tower.encode(list(texts), max_tokens)
    device = model.loss.log_temperature.device
    found = []
    with torch.no_grad():
        for start in range(0, len(ids), TEXTS_PER_BATCH):
            tokens_XT, mask_XT = padded(ids[start : start + TEXTS_PER_BATCH], tower.pad_id)
            found.append(model.text_vectors(tokens_XT.to(device), mask_XT.to(device)))
    return torch.cat(found)


def class_vectors(
    model: LitModel, tower: TextTower, labels: Sequence[str], templates: Sequence[str], max_tokens: int
) -> Tensor:
    """float32[C, E]: of each class the mean over its prompts (Radford et al. 2021, prompt ensembles), of length 1."""
    texts = [template.replace(LABEL, label) for label in labels for template in templates]
    vectors_XE = text_vectors(model, tower, texts, max_tokens)
    return functional.normalize(vectors_XE.view(len(labels), len(templates), -1).mean(dim=1), dim=-1)


def class_scores(image_BE: Tensor, class_CE: Tensor) -> Tensor:
    """[B, C]: cosines. The largest is the class."""
    return image_BE @ class_CE.T


def retrieval_ranks(query_QE: Tensor, candidate_NE: Tensor, positives: Mapping[int, Iterable[int]]) -> list[int]:
    """For each query the rank, from 0, of the best of its positives among all candidates.

    Of equal scores the positive comes last, so that a model that answers the same to all does not look good."""
    scores_QN = query_QE @ candidate_NE.T
    ranks = []
    for query, scores_N in enumerate(scores_QN):
        wanted = torch.tensor(sorted(positives[query]), device=scores_N.device)
        best = scores_N[wanted].max()
        others_N = torch.ones_like(scores_N, dtype=torch.bool).index_fill_(0, wanted, False)
        ranks.append(int((scores_N[others_N] >= best).sum()))
    return ranks


def recall_at(ranks: Sequence[int], k: int) -> float:
    """R@k: the share of queries with a positive among the first k."""
    return sum(rank < k for rank in ranks) / len(ranks)
