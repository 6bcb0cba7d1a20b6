"""The Ray Serve deployment's class: one loaded version in a process, answering what waits together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from training.serving.gathering import Gathering
from training.serving.loading import VersionPlace, load_engine, threads_of_environment
from training.serving.occlusion import occlude
from training.serving.work import Carried, ModelFacts, Told, Work


class Replica:
    """One thread computes; the loop beside it takes requests in and tells Serve that it is well."""

    def __init__(self, place: VersionPlace, max_batch: int) -> None:
        self._engine = load_engine(place, threads_of_environment())
        self._thread = ThreadPoolExecutor(1, "compute")
        self._gathering: Gathering[Work, Told] = Gathering(self._engine.tell, max_batch, self._thread)

    async def tell(self, work: Work) -> Told:
        return await self._gathering.add(work)

    async def carried(self, work: Work) -> Carried:
        """Alone: it is a batch by itself."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, occlude, self._engine, work)

    async def facts(self) -> ModelFacts:
        return self._engine.facts
