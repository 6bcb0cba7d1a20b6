"""What waits is answered together.

Not `serve.batch`: it closes a batch when its time is over, also while the one before still computes, so that without a
wait every batch held one request, and with one every single request paid for it (measured: 32 clients, batches of 1).
Here a batch closes when the thread is free to compute it. One client waits for nothing; many share batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Gathering(Generic[Item, Result]):
    """Hands items to `work` in the order they came, at most `max_batch` at a time, on `thread`. Used on one loop."""

    def __init__(self, work: Callable[[Sequence[Item]], list[Result]], max_batch: int, thread: Executor) -> None:
        self._work, self._max_batch, self._thread = work, max_batch, thread
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Result:
        """The item's result, or what `work` raised over its batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next_batch()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
            except Exception as error:  # each of them is told
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Without those whose client went away."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
