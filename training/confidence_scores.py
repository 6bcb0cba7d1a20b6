"""What the likelihoods say: how probable the targets are, whether right captions are more so, and whether the model
knows when it is right."""

import math
from collections.abc import Mapping, Sequence

from data_prep.dataset import Example
from training.asking import Asked, Question, Reply
from training.metrics.calibration import calibration
from training.report import Bin, CalibrationPlot
from training.scoring import Scores

RIGHT = {"vqa": "vqa_accuracy", "classify": "accuracy"}
"""The score that says how right an answer is, 0..1. A caption is not right or wrong."""


def confidence_of(task: str, reply: Reply) -> float | None:
    """The probability of the answer under the model; of numbers there is none."""
    return None if task == "regress" else _probability(reply)


def calibrations(
    examples: Sequence[Example], replies: Mapping[str, Reply], scores: Scores
) -> dict[str, CalibrationPlot]:
    """By task."""
    found = {}
    for task, name in RIGHT.items():
        answered = [example.example_id for example in examples if example.task == task]
        if answered:
            confidences = [_probability(replies[one]) for one in answered]
            made = calibration(confidences, [scores[one][name] for one in answered])
            bins = [Bin(**vars(each)) for each in made.bins]
            found[task] = CalibrationPlot(error=made.error, bins=bins)
    return found


def add_likelihoods(questions: Sequence[Question], replies: Mapping[Asked, Reply], scores: Scores) -> dict[str, float]:
    """Perplexity of the first targets, over all their tokens. Adds `hard_negative_accuracy` to the examples' scores:
    whether a token of the right caption is on average likelier than one of another image's."""
    told = [replies[question.target] for question in questions if question.target is not None]
    for question in questions:
        if question.target is not None and question.wrong is not None:
            right, wrong = (_per_token(replies[one]) for one in (question.target, question.wrong))
            scores[question.example_id]["hard_negative_accuracy"] = float(right > wrong)
    num_tokens = sum(reply.num_tokens for reply in told)
    if not num_tokens:
        return {}
    mean = math.fsum(reply.log_likelihood for reply in told) / num_tokens
    return {"perplexity": math.exp(min(-mean, 700.0))}


def _probability(reply: Reply) -> float:
    return math.exp(min(0.0, reply.log_likelihood))  # rounding can leave it above zero


def _per_token(reply: Reply) -> float:
    return reply.log_likelihood / reply.num_tokens
