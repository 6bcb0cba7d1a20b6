"""A request's body as a message: JSON with the picture in base64, or a form with the picture as a file."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from training.serving.faults import Refused
from training.serving.limits import MAX_LABELS, MAX_TEXT_CHARACTERS

Message = TypeVar("Message", bound=BaseModel)
_LISTS = ("questions", "labels")
MAX_FIELDS = 2 * MAX_LABELS
MAX_FIELD_BYTES = 4 * MAX_TEXT_CHARACTERS


async def read_message(request: Request, kind: type[Message]) -> Message:
    """Raises Refused for another type, a body that is not what it says, and values that are not as described."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type == "application/json":
            return kind.model_validate_json(await request.body())
        if media_type == "multipart/form-data":
            return kind.model_validate(await _fields(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Refused("malformed_body", f"the body is no JSON ({first['msg']}). Correct it.") from None
        place = ".".join(map(str, first["loc"]))[:80] or "the body"
        found = {"extra_forbidden": "no such field", "missing": "the field is missing"}.get(first["type"])
        told = f"{found}; expected {', '.join(kind.model_fields)}" if found else first["msg"]
        raise Refused("invalid_request", f"{place}: {told}. See /openapi.json.") from None
    raise Refused(
        "unsupported_media_type",
        f"content type {media_type[:60]!r} was found; expected application/json or multipart/form-data.",
    )


async def _fields(request: Request) -> dict[str, Any]:
    body = await request.body()

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(
            request.headers, once(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError, AssertionError) as error:
        told = getattr(error, "message", "") or type(error).__name__
        raise Refused("malformed_body", f"the body is no form as its header says ({told}). Correct it.") from None
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            found = await value.read() if isinstance(value, UploadFile) else value
            if name in _LISTS:
                fields.setdefault(name, []).append(found)
            elif name in fields:
                raise Refused("invalid_request", f"{name[:40]}: found twice; expected once.")
            else:
                fields[name] = found
    finally:
        await form.close()
    return fields
