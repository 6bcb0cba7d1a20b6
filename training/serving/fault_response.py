"""Faults as HTTP answers: `{"error": {"code": …, "message": …}}`."""

from __future__ import annotations

from starlette.responses import JSONResponse

from training.serving.faults import Fault

RETRY_SECONDS = 2


def fault_response(fault: Fault, close: bool = False) -> JSONResponse:
    """`close` ends the connection behind it, where the rest of a request is not wanted."""
    headers = {"connection": "close"} if close else {}
    if fault.status == 401:
        headers["www-authenticate"] = "Bearer"
    if fault.status == 503:
        headers["retry-after"] = str(RETRY_SECONDS)
    return JSONResponse({"error": {"code": fault.code, "message": fault.message}}, fault.status, headers)
