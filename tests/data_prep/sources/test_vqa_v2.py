"""VQAv2: a row per question, with the answers of its annotation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from source_rows import all_rows, bad_rows, fault_of, good_rows, opened, versions

from data_prep.sources import SourceRow
from infra.errors import ConfigError, DataError

QUESTIONS = [
    {"question_id": 20, "image_id": 1, "question": "how  many?"},
    {"question_id": 10, "image_id": 2, "question": "where?"},
]
ANNOTATIONS = [
    {"question_id": 10, "answers": [{"answer": "here"}]},
    {
        "question_id": 20,
        "question_type": "how many",
        "answer_type": "number",
        "answers": [{"answer": "2"}, {"answer": "two"}, {"answer": "2"}],
    },
]


@pytest.fixture
def vqa(tmp_path: Path, pictures: Path) -> Callable[..., dict[str, Any]]:
    def write(questions: Any = QUESTIONS, annotations: Any = ANNOTATIONS) -> dict[str, Any]:
        (tmp_path / "questions.json").write_text(json.dumps({"questions": questions}))
        (tmp_path / "annotations.json").write_text(json.dumps({"annotations": annotations}))
        places = {name: str(tmp_path / f"{name}.json") for name in ("questions", "annotations")}
        return {"kind": "vqa_v2", **places, "images": str(pictures), "image_name": "{image_id}.png"}

    return write


def test_questions_keep_their_order_and_answers_theirs(
    vqa: Callable[..., dict[str, Any]], make_picture: Callable[[int], bytes]
) -> None:
    first, second = good_rows(opened(**vqa(), split="test"))
    assert (first.task, first.prompt, first.targets, first.split) == ("vqa", "how many?", ("2", "two", "2"), "test")
    assert first.attributes == {"question_type": "how many", "answer_type": "number"}
    assert first.image.read() == make_picture(1)
    assert (second.prompt, second.targets, second.attributes) == ("where?", ("here",), {})


def test_a_question_without_annotation_is_a_bad_row(vqa: Callable[..., dict[str, Any]]) -> None:
    source = opened(**vqa(annotations=ANNOTATIONS[:1]))
    (bad,) = bad_rows(source)
    assert (bad.row, bad.name, bad.reason) == (0, "question 20", "no_annotation")
    assert len(all_rows(source)) == 2


@pytest.mark.parametrize(
    "question",
    [
        7,
        None,
        {"question_id": 10},
        {"question_id": 10, "image_id": 1},
        {"question_id": [10], "image_id": 1, "question": "a"},
        {"question_id": 10, "image_id": "../1", "question": "a"},
    ],
)
def test_a_torn_question_is_a_bad_row(question: Any, vqa: Callable[..., dict[str, Any]]) -> None:
    rows = all_rows(opened(**vqa(questions=[question, QUESTIONS[1]])))
    assert rows[0].reason == "unreadable_row"  # type: ignore[union-attr]
    assert isinstance(rows[1], SourceRow)


@pytest.mark.parametrize("answers", [None, 3, ["tree"], [{"confidence": "yes"}]])
def test_torn_answers_are_a_bad_row(answers: Any, vqa: Callable[..., dict[str, Any]]) -> None:
    annotations = [{"question_id": 20, "answers": answers}, ANNOTATIONS[0]]
    assert [bad.row for bad in bad_rows(opened(**vqa(annotations=annotations)))] == [0]


def test_a_question_about_a_picture_that_is_not_there_is_a_missing_file(vqa: Callable[..., dict[str, Any]]) -> None:
    (row,) = good_rows(opened(**vqa(questions=[{**QUESTIONS[0], "image_id": 99}])))
    assert (row.image.name, fault_of(row)) == ("99.png", "missing_file")


@pytest.mark.parametrize("wrong", [{"questions": 3}, {"annotations": None}, {"annotations": [{"no": "id"}]}])
def test_a_file_that_is_no_vqa_is_one_sentence(wrong: Any, vqa: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="expected VQAv2 JSON"):
        all_rows(opened(**vqa(**wrong)))


def test_the_version_of_the_questions_covers_annotations_and_pictures(
    vqa: Callable[..., dict[str, Any]], pictures: Path
) -> None:
    seen = [versions(opened(**vqa()))]
    vqa(annotations=ANNOTATIONS[:1])
    seen.append(versions(opened(**vqa(annotations=ANNOTATIONS[:1]))))
    (pictures / "0.png").unlink()
    seen.append(versions(opened(**vqa(annotations=ANNOTATIONS[:1]))))
    assert all(one != other for number, one in enumerate(seen) for other in seen[number + 1 :])
    assert [file.name for file in opened(**vqa()).listing()] == ["questions", "annotations", "1.png", "2.png"]


@pytest.mark.parametrize("name", ["{image_id.__class__}", "{0}", "a.jpg", "{image_id!r}", "{image_id:999999999d}"])
def test_names_of_pictures_are_made_from_the_number_alone(name: str, vqa: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        opened(**{**vqa(), "image_name": name})


def test_a_missing_annotation_file_is_told(vqa: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="/no/such"):
        opened(**{**vqa(), "annotations": "/no/such.json"}).listing()
