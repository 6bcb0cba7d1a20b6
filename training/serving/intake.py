"""ASGI layers before the routes: who may ask, how much is read of a request and for how long, and what was answered.

A body is read here, whole and bounded, and handed on in one message. So no route waits for a slow client, and the door
holds at most `max_waiting_bytes` of bodies, whatever arrives.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.serving.fault_response import fault_response
from training.serving.faults import Refused
from training.serving.limits import Limits
from training.serving.metrics import Metrics

TRUSTED = "frostline_trusted"
"""In the scope of a request whose sender may read errors, which name folders and addresses."""
OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/healthz", "/readyz", "/openapi.json"})
"""Say nothing about pictures or models that a token would guard: probes, the page and the API's description."""
OPEN_METHODS = frozenset({"GET", "HEAD"})
"""Of these paths. The others have a body, which is read only of those who have the token."""
LINGER_SECONDS = 5
"""How long what comes after a refusal is read and thrown away: a connection that is closed at once takes the answer
with it, where the client still sends."""


class Counted:
    """Outermost: counts every answer, by its route and code. 499 is a client that went before it had one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Collection[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else "other"
        started, status, code = time.perf_counter(), 0, ""

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
            if not status:
                status, code = 499, "client_gone"
        finally:
            code = code or scope.get("frostline_code", "")
            self._metrics.requests.labels(route, str(status or 500), code).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)


class Guarded:
    """Asks for the token. Without one the server is this machine's own, and answers only to its names: a web page
    elsewhere could otherwise reach it by a name that it lets point here."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(Headers(scope=scope))
                scope[TRUSTED] = True
            except Refused as refused:
                is_open = scope["path"] in OPEN_PATHS and scope["method"] in OPEN_METHODS
                if refused.fault.code == "wrong_host" or not is_open:
                    await refuse(refused, scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        if self._token is None:
            if not is_this_machine(_name_in(headers.get("host", ""))):
                raise Refused("wrong_host", "without a token only requests to localhost are answered. Set a token.")
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Refused("missing_token", "no token was found; expected the header Authorization: Bearer TOKEN.")
        if not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise Refused("wrong_token", "another token was found; expected the server's. Ask its operator.")


def is_this_machine(name: str) -> bool:
    """Whether a host's name or address leads nowhere else."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name_in(host: str) -> str:
    """Of the header, without the port; "" where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Bounded:
    """Reads bodies within the limits, and ends the work on a request whose client goes away."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._num_requests = self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        held = [0]
        self._num_requests += 1
        try:
            try:
                body = await self._read(Headers(scope=scope), receive, held)
            except Refused as refused:
                await refuse(refused, scope, receive, send)
                return
            if body is not None:
                await self._answered(body, scope, receive, send)
        finally:
            self._num_requests -= 1
            self._take(held, -held[0])

    async def _answered(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """uvicorn tells of a client that went to those who ask, and cancels nothing."""
        gone = asyncio.ensure_future(receive())  # uvicorn says so, too, when the answer is out
        answering = asyncio.ensure_future(self._app(scope, _of(body, gone), send))
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            await asyncio.wait((answering,))
            gone.cancel()
        if not answering.cancelled():
            answering.result()

    def _take(self, held: list[int], num_bytes: int) -> None:
        held[0] += num_bytes
        self._num_bytes += num_bytes
        self._metrics.waiting_bytes.set(self._num_bytes)
        self._metrics.waiting_requests.set(self._num_requests)

    async def _read(self, headers: Headers, receive: Receive, held: list[int]) -> bytes | None:
        """None where the client went away. uvicorn reads no further than some 64 KiB ahead."""
        limits = self._limits
        if self._num_requests > limits.max_waiting_requests:
            raise Refused("busy", f"{limits.max_waiting_requests} requests are waiting already. Try again later.")
        told = headers.get("content-length", "0")
        self._check(int(told) if told.isdigit() else 0, 0)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    self._take(held, len(message.get("body", b"")))
                    self._check(held[0], self._num_bytes)
                    chunks.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise Refused(
                "body_too_slow",
                f"the body was not there within {limits.body_seconds:g} s; expected all of it. Send it faster.",
            ) from None

    def _check(self, num_bytes: int, num_waiting: int) -> None:
        limits = self._limits
        if num_bytes > limits.max_body_bytes:
            raise Refused(
                "body_too_large",
                f"a larger body was found; expected at most {limits.max_body_bytes} bytes. Make the picture smaller.",
            )
        if num_waiting > limits.max_waiting_bytes:
            raise Refused("busy", f"{limits.max_waiting_bytes} bytes are waiting already. Try again later.")


def _of(body: bytes, gone: asyncio.Future[Message]) -> Receive:
    """A body that is there, then that the client went."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else await asyncio.shield(gone)

    return received


async def refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, then let the client finish: it may still send, and would not see the answer."""
    scope["frostline_code"] = refused.fault.code
    response = fault_response(refused.fault, close=True)
    headers = response.raw_headers
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
