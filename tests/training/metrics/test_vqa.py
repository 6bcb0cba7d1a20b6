"""VQA accuracy on cases computed by hand."""

import itertools
import json
from pathlib import Path

import pytest

from infra.errors import DataError
from training.metrics.vqa import normalize_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("Yes.", "yes"),
        ("  The\tred\ncar ", "red car"),
        ("Two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("o'clock", "o'clock"),
        ("red/blue", "red blue"),
        ("red, blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("12:30", "12:30"),
        ("u.s.a.", "usa"),
        ("a", "a"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_answers_are_normalized_as_in_the_official_evaluation(answer: str, normalized: str) -> None:
    assert normalize_answer(answer) == normalized


@pytest.mark.parametrize(("num_agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people_are_left_out_one_by_one(num_agreeing: int, accuracy: float) -> None:
    # Three agree: leaving one of them out gives 2/3 (three times), leaving another out gives 1 (seven times): 0.9.
    answers = ["red"] * num_agreeing + [f"other {index}" for index in range(10 - num_agreeing)]
    assert vqa_accuracy("Red!", answers) == accuracy


@pytest.mark.parametrize(
    ("answers", "accuracy"),
    [
        (["red"], 1.0),
        (["blue"], 0.0),
        (["red", "red"], 1.0),
        (["red", "blue"], 0.5),
        (["red", "blue", "blue"], 1 / 3),
        (["red", "red", "blue"], 2 / 3),
        (["red", "red", "red", "blue"], 0.75),
        (["red"] * 4, 1.0),
    ],
)
def test_with_few_answers_all_the_others_must_agree(answers: list[str], accuracy: float) -> None:
    assert vqa_accuracy("red", answers) == pytest.approx(accuracy)


def test_both_sides_are_normalized() -> None:
    assert vqa_accuracy("2", ["Two."]) == 1.0
    assert vqa_accuracy("The dog", ["dog"] * 10) == 1.0


def test_an_empty_prediction_is_wrong_even_where_the_answer_is_an_article() -> None:
    assert vqa_accuracy("", ["a"]) == 0.0
    assert vqa_accuracy("the", ["a"]) == 0.0
    assert vqa_accuracy("A", ["a"]) == 1.0


def test_the_order_of_the_answers_does_not_matter() -> None:
    answers = ["red", "red", "blue", "dark red", "pink"]
    assert len({vqa_accuracy("red", list(order)) for order in itertools.permutations(answers)}) == 1


@pytest.mark.parametrize("answers", [[], "red"])
def test_missing_answers_are_named(answers: list[str]) -> None:
    with pytest.raises(DataError, match="expected a list of one or more"):
        vqa_accuracy("red", answers)


@pytest.mark.shared_data
def test_the_most_frequent_answer_of_real_people_is_mostly_right(shared_data: Path) -> None:
    document = json.loads((shared_data / "coco_mini" / "vqa_annotations.json").read_text())
    asked = [
        (row["multiple_choice_answer"], [answer["answer"] for answer in row["answers"]])
        for row in document["annotations"]
        if len(row["answers"]) == 10
    ]
    accuracies = [vqa_accuracy(chosen, answers) for chosen, answers in asked]
    assert sum(accuracies) / len(accuracies) > 0.8
    assert all(0.0 <= accuracy <= 1.0 for accuracy in accuracies)
