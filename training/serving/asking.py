"""One request through the version that serves: checked picture, replica, answer. Nothing of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from training.serving.champion import Champion
from training.serving.faults import Refused
from training.serving.limits import Limits
from training.serving.pictures import Pictures
from training.serving.work import Carried, ModelFacts, Told, Work

Result = TypeVar("Result", Told, Carried)
NUM_TRIES = 3
"""A replica that died answers nothing any more; asking another one twice costs nobody anything but time."""


class Asking:
    """Where all requests meet what answers them."""

    def __init__(self, champion: Champion, pictures: Pictures, limits: Limits) -> None:
        self.champion, self.metrics = champion, champion.metrics
        self._pictures, self._limits = pictures, limits

    async def tell(self, work_for: Callable[[ModelFacts], Work], image: bytes) -> tuple[Told, ModelFacts]:
        """What the version that serves says. Raises Refused."""
        told, facts = await self._answered(work_for, image, lambda handle, work: handle.tell.remote(work))
        self.metrics.batch.observe(told.num_in_batch)
        return told, facts

    async def explain(self, work_for: Callable[[ModelFacts], Work], image: bytes) -> tuple[Carried, ModelFacts]:
        return await self._answered(work_for, image, lambda handle, work: handle.carried.remote(work))

    async def _answered(
        self, work_for: Callable[[ModelFacts], Work], image: bytes, ask: Callable[[Any, Work], Awaitable[Result]]
    ) -> tuple[Result, ModelFacts]:
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                await self._pictures.check(image)
                with self.champion.asked() as serving:
                    result = await _tried(lambda: ask(serving.handle, work_for(serving.facts)))
        except TimeoutError:
            raise Refused(
                "took_too_long", f"there was no answer within {self._limits.request_seconds:g} s. Try again later."
            ) from None
        if result.fault is not None:
            raise Refused(result.fault.code, result.fault.message)
        return result, serving.facts


async def _tried(ask: Callable[[], Any]) -> Any:
    """`ask` gives Ray Serve's response. Whoever stops waiting for it takes the request back: it would be computed for
    nobody otherwise."""
    from ray.exceptions import RayActorError

    for number in range(NUM_TRIES):
        response = ask()
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayActorError:
            if number == NUM_TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")
