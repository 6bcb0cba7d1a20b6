"""The API: five questions about a picture, health, readiness and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from training.serving.asking import Asking
from training.serving.faults import Refused
from training.serving.intake import TRUSTED
from training.serving.messages import (
    Answer,
    AskAnswer,
    AskRequest,
    CaptionAnswer,
    CaptionRequest,
    ClassifyAnswer,
    ClassifyRequest,
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    LabelScore,
    Model,
    Ready,
    SimilarAnswer,
    SimilarImage,
    SimilarRequest,
)
from training.serving.reading import read_message
from training.serving.work import ModelFacts, Work

_STATUSES = {
    400: "The body is not what its header says.",
    401: "No token, or another one.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "No type, or no image format, that is taken.",
    422: "The request or its picture cannot be answered.",
    503: "Not loaded yet, or too much to do. Try again.",
    504: "No answer in time.",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": told} for status, told in _STATUSES.items()
}


_IN_JSON: dict[str, Any] = {
    "description": _STATUSES[401],
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
}
"""Of a route that answers in text otherwise."""


def _body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Both forms of a request for the description: JSON, and a form with the picture as a file."""
    in_json = kind.model_json_schema()
    in_form = {**in_json, "properties": {**in_json["properties"], "image": {"type": "string", "format": "binary"}}}
    content = {"application/json": {"schema": in_json}, "multipart/form-data": {"schema": in_form}}
    return {"requestBody": {"required": True, "content": content}}


def api_of(asking: Asking) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=_ERRORS, tags=["pictures"])

    @router.post("/caption", openapi_extra=_body_of(CaptionRequest))
    async def caption(request: Request) -> CaptionAnswer:
        """Describe a picture."""
        message = await read_message(request, CaptionRequest)
        told, facts = await asking.tell(lambda _: Work(message.image, (("caption", ""),)), message.image)
        return CaptionAnswer(caption=told.texts[0], model=_model(facts))

    @router.post("/ask", openapi_extra=_body_of(AskRequest))
    async def ask(request: Request) -> AskAnswer:
        """Answer questions about a picture."""
        message = await read_message(request, AskRequest)
        asked = tuple(("vqa", question) for question in message.questions)
        told, facts = await asking.tell(lambda _: Work(message.image, asked), message.image)
        pairs = zip(message.questions, told.texts, strict=True)
        answers = [Answer(question=question, answer=text) for question, text in pairs]
        return AskAnswer(answers=answers, model=_model(facts))

    @router.post("/classify", openapi_extra=_body_of(ClassifyRequest))
    async def classify(request: Request) -> ClassifyAnswer:
        """Choose among labels: the model's own, or those of the request, as captions or as answers to its question."""
        message = await read_message(request, ClassifyRequest)
        told, facts = await asking.tell(lambda facts: _classified(message, facts), message.image)
        scores = [LabelScore(label=label, probability=value) for label, value in told.label_scores]
        return ClassifyAnswer(label=scores[0].label, scores=scores, model=_model(facts))

    @router.post("/similar", openapi_extra=_body_of(SimilarRequest))
    async def similar(request: Request) -> SimilarAnswer:
        """Find the stored images that are most like a picture, with their captions."""
        message = await read_message(request, SimilarRequest)
        told, facts = await asking.tell(lambda _: Work(message.image, num_neighbours=message.count), message.image)
        images = [
            SimilarImage(image_id=one.image_id, similarity=one.similarity, captions=list(one.captions))
            for one in told.neighbours
        ]
        return SimilarAnswer(images=images, model=_model(facts))

    @router.post("/explain", openapi_extra=_body_of(ExplainRequest))
    async def explain(request: Request) -> ExplainAnswer:
        """Say which parts of a picture carried the caption, or the answer to a question."""
        message = await read_message(request, ExplainRequest)
        task = "vqa" if message.question else "caption"
        carried, facts = await asking.explain(lambda _: Work(message.image, ((task, message.question),)), message.image)
        return ExplainAnswer(answer=carried.answer, falls=[list(row) for row in carried.falls], model=_model(facts))

    return router


def state_of(asking: Asking) -> APIRouter:
    """Health, readiness, metrics."""
    router = APIRouter(tags=["state"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The server runs."""
        return "ok"

    @router.get("/readyz", response_model=Ready, responses={503: {"model": Ready}})
    async def readyz(request: Request) -> JSONResponse:
        """A version is up and answers. Why another one does not, it tells in full to those who have the token."""
        champion = asking.champion

        def told(reason: str) -> str:
            return reason if request.scope.get(TRUSTED) else "see the server's log"

        facts = champion.serving.facts if champion.serving else None
        found = Ready(
            ready=facts is not None and champion.no_replica is None,
            model_uri=champion.model_uri,
            model=_model(facts) if facts else None,
            tasks=list(facts.tasks) if facts else [],
            labels=list(facts.labels) if facts else [],
            finds_images=facts.finds_images if facts else False,
            serving_since=champion.since or None,
            not_serving=f"version {champion.failed.version}: {told(champion.failed.reason)}"
            if champion.failed
            else None,
            no_replica=told(champion.no_replica) if champion.no_replica else None,
            registry_fault=told(champion.registry_fault) if champion.registry_fault else None,
        )
        return JSONResponse(found.model_dump(), 200 if found.ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse, responses={401: _IN_JSON})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(asking.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _model(facts: ModelFacts) -> Model:
    return Model(name=facts.model_name, version=facts.version)


def _classified(message: ClassifyRequest, facts: ModelFacts) -> Work:
    """The labels of the training by what was trained for them; others by how likely each is as a text."""
    labels = tuple(message.labels) or facts.labels
    if not labels:
        raise Refused("no_labels", "this model was not trained to classify; expected labels in the request. Name some.")
    task = "vqa" if message.question else "caption"
    if not message.labels and "classify" in facts.tasks:
        task = "classify"
    return Work(message.image, ((task, message.question),), labels=labels)
