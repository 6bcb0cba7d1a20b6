"""Pictures that clients send, looked at where they can do no harm: in decode processes, by ingestion's rules."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from data_prep.decode_pool import DecodePool, Outcome
from data_prep.sources.base import RowFault
from training.serving.faults import STATUS_OF, Refused
from training.serving.limits import Limits


class Pictures:
    """Checks that bytes are an image before a model's process sees them."""

    def __init__(self, limits: Limits, num_processes: int = 1) -> None:
        self._limits = limits
        self._pool = DecodePool(num_processes, limits.decode_memory_bytes, limits.decode_seconds)
        self._threads = ThreadPoolExecutor(2 * num_processes, "look")  # a batch is sent while another is looked at

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.__exit__(kind, error, trace)

    def worker_pids(self) -> list[int]:
        return self._pool.worker_pids()

    async def check(self, data: bytes) -> None:
        """Raises Refused, with ingestion's reason, for what is no image or passes a limit."""
        outcome = await asyncio.get_running_loop().run_in_executor(self._threads, self._look, data)
        if isinstance(outcome, RowFault):
            code = outcome.reason if outcome.reason in STATUS_OF else "unreadable_image"
            raise Refused(code, outcome.message)
        if outcome is None:
            raise Refused("unreadable_image", "no bytes of an image were found; expected a picture.")
        num_pixels = outcome.facts.width_px * outcome.facts.height_px
        if num_pixels > self._limits.max_pixels:
            raise Refused(
                "too_many_pixels",
                f"{num_pixels} pixels were found; expected at most {self._limits.max_pixels}. Make it smaller.",
            )

    def _look(self, data: bytes) -> Outcome | None:
        ((_, outcome),) = self._pool.inspect([(None, data)])
        return outcome
