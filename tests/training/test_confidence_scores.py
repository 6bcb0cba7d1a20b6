"""Likelihoods as scores: perplexity, right against wrong captions, calibration."""

import math

import pytest

from data_prep.dataset import Example
from training.asking import Asked, Question, Reply
from training.confidence_scores import add_likelihoods, calibrations, confidence_of
from training.scoring import Scores


def question(name: str, wrong: bool) -> Question:
    own = Asked(name, "caption:")
    target = own._replace(kind="likelihood", target="right")
    return Question(name, "caption", "other", own, own, own, target, target._replace(target="wrong") if wrong else None)


def test_perplexity_is_over_all_tokens_and_a_caption_is_right_where_its_tokens_are_likelier() -> None:
    questions = [question("a", wrong=True), question("b", wrong=True), question("c", wrong=False)]
    replies = {
        questions[0].target: Reply(log_likelihood=-2.0, num_tokens=4),  # 0.5 a token
        questions[0].wrong: Reply(log_likelihood=-1.5, num_tokens=2),  # likelier in sum, not by the token
        questions[1].target: Reply(log_likelihood=-3.0, num_tokens=1),
        questions[1].wrong: Reply(log_likelihood=-3.0, num_tokens=1),  # a tie is not right
        questions[2].target: Reply(log_likelihood=-1.0, num_tokens=5),
    }
    scores: Scores = {name: {} for name in "abc"}
    metrics = add_likelihoods(questions, replies, scores)  # type: ignore[arg-type]
    assert metrics == {"perplexity": pytest.approx(math.exp((2 + 3 + 1) / 10))}
    assert scores == {"a": {"hard_negative_accuracy": 1.0}, "b": {"hard_negative_accuracy": 0.0}, "c": {}}


def test_without_targets_there_is_no_perplexity() -> None:
    own = Asked("a", "", "regress")
    assert add_likelihoods([Question("a", "regress", "b", own, own, own)], {}, {"a": {}}) == {}


def test_an_answer_that_is_as_often_right_as_it_is_held_probable_is_calibrated() -> None:
    examples = [Example(str(n), "i", "vqa", "?", ("x",), "test", "one") for n in range(4)]
    replies = {str(n): Reply("x", math.log(0.75)) for n in range(4)}
    scores = {str(n): {"vqa_accuracy": 0.0 if n == 0 else 1.0} for n in range(4)}
    found = calibrations(examples, replies, scores)
    assert found.keys() == {"vqa"} and found["vqa"].error == pytest.approx(0.0)
    boastful = calibrations(examples, {str(n): Reply("x", 0.0) for n in range(4)}, scores)
    assert boastful["vqa"].error == pytest.approx(0.25)


def test_numbers_have_no_probability() -> None:
    assert confidence_of("regress", Reply(numbers=(1.0,))) is None
    assert confidence_of("vqa", Reply("x", math.log(0.5))) == pytest.approx(0.5)
