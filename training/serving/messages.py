"""What clients send and get, as the API's description has it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from training.serving.limits import MAX_LABELS, MAX_NEIGHBOURS, MAX_QUESTIONS, MAX_TEXT_CHARACTERS


def _from_base64(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                "expected a picture: a file in the form (curl: -F image=@FILE), or its bytes as base64 in JSON"
            ) from None
    return value


Picture = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    Field(min_length=1),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 4}),
]
"""In JSON as base64; in a form as a file."""
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CaptionRequest(_Message):
    image: Picture


class AskRequest(_Message):
    image: Picture
    questions: list[Text] = Field(min_length=1, max_length=MAX_QUESTIONS)


class ClassifyRequest(_Message):
    image: Picture
    labels: list[Text] = Field(default=[], max_length=MAX_LABELS)
    """Chosen among. Left out, those that the model was trained with."""
    question: str = Field(default="", max_length=MAX_TEXT_CHARACTERS)
    """That the labels answer. Left out, they are captions."""


class SimilarRequest(_Message):
    image: Picture
    count: int = Field(default=5, ge=1, le=MAX_NEIGHBOURS)


class ExplainRequest(_Message):
    image: Picture
    question: str = Field(default="", max_length=MAX_TEXT_CHARACTERS)
    """Left out, the caption is explained."""


class Model(_Message):
    """Which version answered."""

    name: str
    version: str


class CaptionAnswer(_Message):
    caption: str
    model: Model


class Answer(_Message):
    question: str
    answer: str


class AskAnswer(_Message):
    answers: list[Answer]
    model: Model


class LabelScore(_Message):
    label: str
    probability: float
    """Among these labels."""


class ClassifyAnswer(_Message):
    label: str
    scores: list[LabelScore]
    model: Model


class SimilarImage(_Message):
    image_id: str
    similarity: float
    captions: list[str]


class SimilarAnswer(_Message):
    images: list[SimilarImage]
    model: Model


class ExplainAnswer(_Message):
    answer: str
    falls: list[list[float]]
    """By how much the answer's log-likelihood falls when this part is hidden, row by row."""
    model: Model


class ErrorDetail(_Message):
    code: str
    message: str


class ErrorAnswer(_Message):
    error: ErrorDetail


class Ready(_Message):
    ready: bool
    model_uri: str
    model: Model | None
    tasks: list[str]
    labels: list[str]
    finds_images: bool
    serving_since: float | None
    """Seconds since 1970."""
    not_serving: str | None
    """Why the version that the alias names does not serve, where another one does."""
    no_replica: str | None
    """Why the version that serves cannot answer now."""
    registry_fault: str | None
