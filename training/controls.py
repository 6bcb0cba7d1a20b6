"""Scores of what was asked: with the examples' images, with what the controls show in their place, with worse ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data_prep.dataset import Example
from training.asking import Asked, Question, Reply
from training.confidence_scores import add_likelihoods
from training.finding import add_retrieval
from training.objectives.answer_space import AnswerSpace
from training.report import Robustness
from training.scoring import Scorer, Scores, means


@dataclass(frozen=True)
class Scored:
    metrics: dict[str, float]
    scores: Scores


class AllScored(NamedTuple):
    """Of the same examples."""

    own: Scored
    swapped: Scored
    blind: Scored


def all_scored(
    examples: Sequence[Example], questions: Sequence[Question], replies: Mapping[Asked, Reply], space: AnswerSpace
) -> AllScored:
    """With their images, with swapped ones and with the mean prefix; likelihoods count for the first only."""

    scorer = Scorer(examples, space)

    def by(shown: Callable[[Question], Asked]) -> Scored:
        metrics, scores = scorer.score({one.example_id: replies[shown(one)] for one in questions})
        metrics |= add_retrieval(questions, replies, shown, scores)
        return Scored(metrics | means(examples, scores), scores)

    found = AllScored(by(lambda one: one.own), by(lambda one: one.control), by(lambda one: one.blind))
    likelihoods = add_likelihoods(questions, replies, found.own.scores)
    found.own.metrics.update(likelihoods | means(examples, found.own.scores))
    return found


def robustness(
    examples: Sequence[Example],
    questions: Sequence[Question],
    replies: Mapping[Asked, Reply],
    names: Sequence[str],
    space: AnswerSpace,
) -> dict[str, Robustness]:
    """By corruption, in the order of `Question.worse`; beside the same examples with their pictures as they are."""
    asked = {question.example_id: question for question in questions if question.worse}
    chosen = [example for example in examples if example.example_id in asked]
    scorer = Scorer(chosen, space)
    without, _ = scorer.score({name: replies[question.own] for name, question in asked.items()})
    found = {}
    for place, name in enumerate(names):
        metrics, _ = scorer.score(
            {example_id: replies[question.worse[place]] for example_id, question in asked.items()}
        )
        found[name] = Robustness(num_examples=len(chosen), metrics=metrics, without=without)
    return found
