"""VQAv2: questions and annotations in two JSON files beside a folder of pictures. Only this file knows its keys."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from data_prep.sources.base import BadRow, FileFacts, SourceOptions, SourceRow
from data_prep.sources.files import covering, not_of_this_kind, one_file, read_json
from data_prep.sources.image_files import BesideImages, open_images
from data_prep.sources.records import BAD_RECORD, Split

QUESTIONS = "VQAv2 JSON with questions[question_id, image_id, question]"
ANNOTATIONS = "VQAv2 JSON with annotations[question_id, answers[answer]]"


class VqaV2Config(SourceOptions):
    kind: Literal["vqa_v2"]
    questions: str
    annotations: str
    images: str
    """A folder, or a `.tar` or `.zip` archive."""
    image_name: str = Field(default="{image_id:012d}.jpg", pattern=r"^[^{}]*\{image_id(:0?\d{1,2}d)?\}[^{}]*$")
    """How the pictures are called, such as COCO_val2014_{image_id:012d}.jpg."""
    split: Split | None = None


class VqaV2(BesideImages):
    """One row per question, in the file's order, with all its answers as targets in theirs."""

    def __init__(self, config: VqaV2Config) -> None:
        self.config = config
        self._images = open_images(config.images)

    def listing(self) -> list[FileFacts]:
        return [*self._annotations(), *self._images.listing()]

    def files(self) -> list[FileFacts]:
        questions, annotations = self._annotations()
        return covering([questions], self.config, _Both(annotations, self._images.listing()))

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        annotations = _by_question(self._annotations()[1])
        try:
            questions = list(read_json(file, QUESTIONS)["questions"])
        except (KeyError, TypeError) as error:
            raise not_of_this_kind(file, error, QUESTIONS) from error
        for row, question in enumerate(questions):
            try:
                yield self._row(row, question, annotations)
            except BAD_RECORD as error:
                yield BadRow(
                    row, f"questions[{row}]", "unreadable_row", f"{type(error).__name__}: {error}; expected {QUESTIONS}"
                )

    def _row(self, row: int, question: Any, annotations: dict[Any, Any]) -> SourceRow | BadRow:
        question_id = question["question_id"]
        annotation = annotations.get(question_id)
        if annotation is None:
            return BadRow(row, f"question {question_id}", "no_annotation", "no annotation has this question_id")
        kinds = {key: str(annotation[key]) for key in ("question_type", "answer_type") if annotation.get(key)}
        return SourceRow(
            row=row,
            image=self._images.ref(self.config.image_name.format(image_id=int(question["image_id"]))),
            task="vqa",
            prompt=" ".join(str(question["question"]).split()),
            targets=tuple(str(answer["answer"]) for answer in annotation["answers"]),
            split=self.config.split,
            attributes=kinds,
        )

    def _annotations(self) -> list[FileFacts]:
        return [one_file(self.config.questions, "questions"), one_file(self.config.annotations, "annotations")]


class _Both:
    """What the rows of the questions depend on besides themselves."""

    def __init__(self, annotations: FileFacts, images: list[FileFacts]) -> None:
        self._files = [annotations, *images]

    def listing(self) -> list[FileFacts]:
        return self._files


def _by_question(file: FileFacts) -> dict[Any, Any]:
    try:
        return {annotation["question_id"]: annotation for annotation in read_json(file, ANNOTATIONS)["annotations"]}
    except (KeyError, TypeError) as error:
        raise not_of_this_kind(file, error, ANNOTATIONS) from error
