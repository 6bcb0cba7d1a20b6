"""The layers before the routes, on an application that tells what it was given."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from infra.errors import ConfigError
from training.serving.intake import TRUSTED, Bounded, Guarded
from training.serving.limits import Limits
from training.serving.metrics import Metrics
from training.serving.server import Address, check_address

TOKEN = "a-token-of-the-tests-only"
LIMITS = Limits(max_body_bytes=1000, max_waiting_bytes=1500, max_waiting_requests=2, body_seconds=0.3)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, and takes its time where the body says so."""
    message = await receive()
    body = message.get("body", b"")
    if b"wait" in body:
        await asyncio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def answers(token: str | None, *requests: dict[str, Any], url: str = "http://localhost/v1/caption") -> list[Any]:
    """(status, code or text) of requests that are sent at once."""

    async def sent() -> list[httpx.Response]:
        transport = httpx.ASGITransport(Guarded(Bounded(echo, LIMITS, Metrics()), token))
        async with httpx.AsyncClient(transport=transport) as client:
            return list(await asyncio.gather(*(client.post(url, **request) for request in requests)))

    def told(response: httpx.Response) -> tuple[int, str]:
        return response.status_code, json.loads(response.text)["error"]["code"] if response.is_error else response.text

    return [told(response) for response in asyncio.run(sent())]


def with_token(token: str) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {token}"}}


def test_only_the_token_opens() -> None:
    asked = [with_token(TOKEN), {}, with_token(TOKEN[:-1]), {"headers": {"authorization": f"Basic {TOKEN}"}}]
    found = [answers(TOKEN, one)[0] for one in asked]
    assert found == [(200, "0"), (401, "missing_token"), (401, "wrong_token"), (401, "missing_token")]


def test_without_a_token_only_the_names_of_this_machine_are_answered() -> None:
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]", "[::1]:8000", "LocalHost"):
        assert answers(None, {"headers": {"host": host}})[0] == (200, "0"), host
    for host in ("rebound.example", "127.0.0.1.example:8000", "localhost.example", "192.168.0.1", "[::2]", "[", ""):
        assert answers(None, {"headers": {"host": host}})[0] == (400, "wrong_host"), host
    assert answers(TOKEN, with_token(TOKEN), url="http://models.example/v1/caption")[0] == (200, "0")


def test_a_body_may_have_so_many_bytes_and_no_more() -> None:
    assert answers(None, {"content": b"a" * 1000})[0] == (200, "1000")
    assert answers(None, {"content": b"a" * 1001})[0] == (413, "body_too_large")


def test_bodies_together_may_have_so_many_bytes_and_no_more() -> None:
    waiting = {"content": b"wait" + b"a" * 896}
    assert sorted(answers(None, waiting, waiting)) == [(200, "900"), (503, "busy")]
    small = {"content": b"wait"}
    assert sorted(answers(None, small, small, small)) == [(200, "4"), (200, "4"), (503, "busy")]


def test_a_body_that_dawdles_is_refused() -> None:
    async def dawdling() -> Any:
        yield b"a"
        await asyncio.sleep(1)
        yield b"a"

    assert answers(None, {"content": dawdling()})[0] == (408, "body_too_slow")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "models.example"])
def test_others_cannot_reach_a_server_without_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        check_address(Address(host, 8000, None))
    check_address(Address(host, 8000, TOKEN))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_can(host: str) -> None:
    check_address(Address(host, 8000, None))


def test_who_asks_an_open_path_without_the_token_is_answered_and_not_trusted_with_errors() -> None:
    async def tells(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(scope.get(TRUSTED)).encode()})

    async def told(token: str | None, path: str = "/readyz", method: str = "GET", **request: Any) -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Guarded(tells, token))) as client:
            return (await client.request(method, f"http://localhost{path}", **request)).text

    assert asyncio.run(told(TOKEN)) == asyncio.run(told(TOKEN, **with_token("another"))) == "None"
    assert asyncio.run(told(TOKEN, **with_token(TOKEN))) == asyncio.run(told(None)) == "True"
    assert "missing_token" in asyncio.run(told(TOKEN, "/metrics"))
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert "missing_token" in asyncio.run(told(TOKEN, "/healthz", method)), "a body would be read of anybody"
        assert asyncio.run(told(TOKEN, "/healthz", method, **with_token(TOKEN))) == "True"
