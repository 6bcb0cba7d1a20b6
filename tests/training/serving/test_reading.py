"""A body as a message: what its sender is told."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request

from training.serving.faults import Refused
from training.serving.messages import AskRequest
from training.serving.reading import read_message


def refusal(body: Any) -> str:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(Refused) as found:
        asyncio.run(read_message(Request(scope, receive), AskRequest))
    return str(found.value)


def test_a_field_that_is_not_known_or_missing_is_told_with_those_there_are() -> None:
    told = "expected image, questions"
    assert f"question: no such field; {told}" in refusal({"image": "aaaa", "questions": ["?"], "question": "?"})
    assert f"questions: the field is missing; {told}" in refusal({"image": "aaaa"})
    assert "questions: List should have at least 1 item" in refusal({"image": "aaaa", "questions": []})
