"""The API asked whatever its own OpenAPI document allows, and what it does not: no answer is a fault of the server."""

import base64
import io
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from served_model import TOKEN

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
LIMITS: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Small ones of any shape; and bytes that are none."""
    if draw(st.booleans()):
        return draw(st.binary(min_size=3, max_size=200))
    size = (draw(st.integers(1, 64)), draw(st.integers(1, 64)))
    buffer = io.BytesIO()
    Image.new(draw(st.sampled_from(["RGB", "L", "RGBA", "1"])), size).save(buffer, "PNG")
    return buffer.getvalue()


schemathesis.openapi.format("byte", pictures().map(lambda data: base64.b64encode(data).decode()))
schemathesis.openapi.format("binary", pictures())


def checks_of(case: Any) -> list[Any]:
    """In a form every value is a text, also what was meant to be none."""
    return [*CHECKS, negative_data_rejection] if case.media_type == "application/json" else CHECKS


def ask_everything(url: str, max_examples: int) -> int:
    """Each operation so many times, with what its description allows and with what it does not. Returns how many
    operations there are."""
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    for operation in operations:
        for mode in GenerationMode:

            @settings(max_examples=max_examples, **LIMITS)
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                headers = {"authorization": f"Bearer {TOKEN}"}
                case.call_and_validate(headers=headers, checks=checks_of(case), timeout=60)

            with suppress(Unsatisfiable):  # an operation that takes nothing has nothing that it does not allow
                check()
    return len(operations)


@pytest.mark.slow
def test_no_request_is_a_fault_of_the_server(running: Any) -> None:
    assert ask_everything(running.server.url, max_examples=10) == 8


@pytest.mark.faults
def test_no_request_of_many_is_a_fault_of_the_server(running: Any) -> None:
    assert ask_everything(running.server.url, max_examples=200) == 8
