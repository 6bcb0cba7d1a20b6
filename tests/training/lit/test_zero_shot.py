"""Classes by prompts and retrieval, from vectors whose answers can be read off."""

from collections.abc import Callable

import pytest
import torch

from training.config import TrainConfig
from training.lit.model import build_lit_model
from training.lit.text_tower import TextTower
from training.lit.zero_shot import class_scores, class_vectors, recall_at, retrieval_ranks, text_vectors

EAST, NORTH, NORTH_EAST = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]


def test_the_rank_counts_what_is_nearer_than_the_best_positive() -> None:
    candidates = torch.tensor([EAST, NORTH, NORTH_EAST])
    queries = torch.tensor([EAST, EAST, NORTH])
    assert retrieval_ranks(queries, candidates, {0: [0], 1: [1], 2: [0, 2]}) == [0, 2, 1]


def test_equal_scores_do_not_look_like_a_hit() -> None:
    assert retrieval_ranks(torch.tensor([EAST]), torch.tensor([EAST] * 4), {0: [2]}) == [3]


def test_recall_at_k_is_the_share_of_queries_with_a_positive_among_the_first_k() -> None:
    ranks = [0, 1, 4, 9]
    assert [recall_at(ranks, k) for k in (1, 5, 10)] == [0.25, 0.75, 1.0]


def test_a_class_is_the_mean_of_its_prompts(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    model = build_lit_model(make_lit_config(), bert, 5).eval()
    templates = ["a {label}", "{label} colour"]
    classes = class_vectors(model, bert, ["red", "blue"], templates, 64)
    mean = text_vectors(model, bert, ["a blue", "blue colour"], 64).mean(dim=0)
    torch.testing.assert_close(classes[1], mean / mean.norm())
    assert classes.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_the_score_of_a_class_is_the_cosine() -> None:
    scores = class_scores(torch.tensor([EAST]), torch.tensor([NORTH, NORTH_EAST]))
    assert scores.tolist() == [pytest.approx([0.0, 0.6])]
