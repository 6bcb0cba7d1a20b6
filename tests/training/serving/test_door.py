"""The layers behind a real uvicorn on a real socket, before an application that takes its time."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from training.serving import server
from training.serving.intake import Bounded, Counted
from training.serving.limits import Limits
from training.serving.metrics import Metrics
from training.serving.server import server_config

BODY = b"a" * 1000


class Slow:
    """Answers when it is let go on, and notes what became of its work."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/v1/caption" and (await receive())["body"] == BODY
        self.begun.set()
        try:
            await self.go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()


class Door:
    """A server of this process: its application, metrics and port."""

    def __init__(self, limits: Limits) -> None:
        self.app, self.metrics = Slow(), Metrics()
        layers = Counted(Bounded(self.app, limits, self.metrics), self.metrics, ["/v1/caption"])
        self.server = uvicorn.Server(server_config(layers, limits))
        self.bound = socket.create_server(("127.0.0.1", 0))

    async def send(self, content: bytes, length: int = len(BODY)) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.bound.getsockname())
        writer.write(b"POST /v1/caption HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % length + content)
        await writer.drain()
        return reader, writer

    def counted(self) -> list[str]:
        """Status and code of what was counted."""
        lines = self.metrics.text().decode().splitlines()
        return [line for line in lines if line.startswith("frostline_requests_total")]


@asynccontextmanager
async def opened(limits: Limits) -> AsyncIterator[Door]:
    door = Door(limits)
    answering = asyncio.create_task(door.server._serve([door.bound]))
    try:
        await until(lambda: door.server.started)
        yield door
    finally:
        door.server.should_exit = door.server.force_exit = True
        await answering


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def test_work_for_a_client_that_went_away_is_ended_and_counted_as_such() -> None:
    async def goes_away() -> tuple[bool, list[str], bytes]:
        async with opened(Limits()) as door:
            _, writer = await door.send(BODY)
            await door.app.begun.wait()
            writer.close()
            await asyncio.wait_for(door.app.ended.wait(), 10)
            await until(door.counted)
            return door.app.was_cancelled, door.counted(), door.metrics.text()

    was_cancelled, counted, metrics = asyncio.run(goes_away())
    assert was_cancelled
    assert counted == ['frostline_requests_total{code="client_gone",route="/v1/caption",status="499"} 1.0']
    assert b"frostline_waiting_requests 0.0" in metrics and b"frostline_waiting_bytes 0.0" in metrics


def test_a_client_that_ends_its_upload_half_way_is_no_fault_of_the_server() -> None:
    async def goes_away() -> list[str]:
        async with opened(Limits()) as door:
            _, writer = await door.send(BODY[:100])
            await until(lambda: b"frostline_waiting_bytes 100.0" in door.metrics.text())
            writer.close()
            await until(door.counted)
            return door.counted()

    (counted,) = asyncio.run(goes_away())
    assert 'code="client_gone"' in counted and 'status="499"' in counted


def test_a_client_that_stays_gets_its_answer_and_may_ask_again_on_the_same_connection() -> None:
    async def stays() -> list[str]:
        async with opened(Limits()) as door:
            door.app.go_on.set()
            reader, writer = await door.send(BODY)
            for _ in range(2):
                assert b"done" in await reader.readuntil(b"0\r\n\r\n")
                writer.write(b"POST /v1/caption HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY)
            await reader.readuntil(b"0\r\n\r\n")
            assert not door.app.was_cancelled
            writer.close()
            await until(lambda: door.counted()[0].endswith(" 3.0"))
            return door.counted()

    assert asyncio.run(stays()) == ['frostline_requests_total{code="",route="/v1/caption",status="200"} 3.0']


@pytest.mark.parametrize(("finish_seconds", "request_seconds"), [(0.1, 20), (20, 0.1)])
def test_a_server_that_is_stopped_finishes_what_was_begun_however_long_a_request_may_take(
    finish_seconds: float, request_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_stopped() -> bytes:
        async with opened(Limits(request_seconds=request_seconds)) as door:
            reader, writer = await door.send(BODY)
            await door.app.begun.wait()
            door.server.should_exit = True
            await asyncio.sleep(1.5)
            door.app.go_on.set()
            answer = await reader.read()
            writer.close()
            return answer

    monkeypatch.setattr(server, "FINISH_SECONDS", finish_seconds)
    assert asyncio.run(is_stopped()).startswith(b"HTTP/1.1 200")
