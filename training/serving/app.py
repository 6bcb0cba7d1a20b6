"""The ASGI application: layers, routes, the page, and one form for every error."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from training.serving.asking import Asking
from training.serving.fault_response import fault_response
from training.serving.faults import Fault, Refused
from training.serving.intake import Bounded, Counted, Guarded
from training.serving.limits import Limits
from training.serving.routes import api_of, state_of

_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_CODES = {404: "not_found", 405: "method_not_allowed"}


def build_app(asking: Asking, limits: Limits, token: str | None) -> ASGIApp:
    """Without a token only this machine's names are answered."""
    app = FastAPI(
        title="Frostline",
        summary="A registered vision-language model answers about pictures.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(api_of(asking))
    app.include_router(state_of(asking))
    _add_page(app)
    _tell_faults(app)
    if token is not None:
        _describe_token(app)
    routes = [getattr(route, "path", "") for route in app.routes] + list(app.openapi()["paths"])
    return Counted(Guarded(Bounded(app, limits, asking.metrics), token), asking.metrics, routes)


def _add_page(app: FastAPI) -> None:
    def answering(name: str, media_type: str) -> None:
        content = (files("training.serving") / "page" / name).read_bytes()

        async def show() -> Response:
            return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

        path = next(path for path, (known, _) in _PAGE.items() if known == name)
        app.add_api_route(path, show, methods=["GET"], include_in_schema=False)

    for name, media_type in _PAGE.values():
        answering(name, media_type)


def _tell_faults(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        request.scope["frostline_code"] = error.fault.code
        return fault_response(error.fault)

    async def by_starlette(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        fault = Fault(_CODES.get(error.status_code, "invalid_request"), f"{error.detail}. See /openapi.json.")
        request.scope["frostline_code"] = fault.code
        response = fault_response(fault)
        response.headers.update(error.headers or {})
        return response

    async def failed(request: Request, _: Exception) -> JSONResponse:
        request.scope["frostline_code"] = "failed"
        return fault_response(Fault("failed", "the server failed at this request; its log says at what."))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, by_starlette)
    app.add_exception_handler(Exception, failed)


def _describe_token(app: FastAPI) -> None:
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if path.startswith("/v1/") or path == "/metrics":
            for operation in operations.values():
                operation["security"] = [{"token": []}]
