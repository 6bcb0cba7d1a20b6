"""Many requests at a time against a server, as many clients send them: each waits for its answer before the next."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Answered:
    number: int
    status: int
    """0 where the connection failed."""
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Load:
    answers: list[Answered]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.answers) / self.seconds

    @property
    def failed(self) -> list[Answered]:
        return [answer for answer in self.answers if answer.status != 200]

    def percentile_seconds(self, percent: int) -> float:
        return statistics.quantiles([answer.seconds for answer in self.answers], n=100)[percent - 1]


def put_load(
    url: str,
    requests: Sequence[Request],
    concurrency: int,
    headers: dict[str, str] | None = None,
    during: Callable[[int], Any] = lambda _: None,
) -> Load:
    """Send all requests, `concurrency` at a time. `during` is told how many are answered, each time another one is."""
    return asyncio.run(_put_load(url, requests, concurrency, headers or {}, during))


async def _put_load(
    url: str, requests: Sequence[Request], concurrency: int, headers: dict[str, str], during: Callable[[int], Any]
) -> Load:
    waiting = iter(enumerate(requests))
    answers: list[Answered] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for number, request in waiting:
            started = time.perf_counter()
            try:
                told = {**headers, "content-type": request.content_type}
                async with session.post(url + request.path, data=request.body, headers=told) as response:
                    status, body = response.status, await response.read()
            except aiohttp.ClientError as error:
                status, body = 0, repr(error).encode()
            answers.append(Answered(number, status, body, time.perf_counter() - started))
            during(len(answers))

    started = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
    return Load(answers, time.perf_counter() - started)
