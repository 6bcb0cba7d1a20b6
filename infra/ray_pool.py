"""Units of work shared among Ray actors that may die: each is done exactly once."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from infra.errors import PlatformError
from infra.ray import check_room, worker_environment
from infra.settings import CpuActorResources

Result = TypeVar("Result", covariant=True)
WAIT_SECONDS = 1.0


class Works(Protocol[Result]):
    """A class whose instances live in an actor and turn a unit of work into a result."""

    def run(self, unit: Any) -> Result: ...


class _Seat:
    """Makes the worker at its first unit, so that its constructor's error is raised as it is, not taken for a death."""

    def __init__(self, worker: type[Works[Any]], arguments: Mapping[str, Any]) -> None:
        self._make: Callable[[], Works[Any]] = lambda: worker(**arguments)
        self._worker: Works[Any] | None = None

    def is_there(self) -> None:
        """Answered once the actor's process runs."""

    def run(self, unit: Any) -> Any:
        if self._worker is None:
            self._worker = self._make()
        return self._worker.run(unit)


def run_units(
    worker: type[Works[Result]],
    arguments: Mapping[str, Any],
    units: Mapping[str, Any],
    resources: CpuActorResources,
    on_result: Callable[[str, Result], None],
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Run every unit on a pool of actors; results arrive in any order, each unit exactly once.

    An actor that dies, or is stuck and therefore killed, costs the unit it had: a new one takes the unit over, at most
    `max_restarts` times per unit. Errors raised by the work itself are raised here as they are. `on_wait` is called
    about every second.
    """
    pool = _Pool(worker, arguments, units, resources)
    try:
        while pool.has_work:
            pool.hand_out()
            results = pool.collect()
            on_wait()
            for name, result in results:
                pool.hand_out()  # whoever is done need not wait for the driver
                on_result(name, result)
            pool.replace_stuck()
    finally:
        pool.kill()


@dataclass
class _Task:
    """A unit in an actor's hands."""

    name: str
    actor: Any
    is_there: Any
    """Ray's promise of the actor's first answer: a cluster may need long to find room for it."""
    since: float | None = None
    """When its time began."""


class _Pool:
    """Actors and the units they have, those that wait, and how many actors each unit has cost."""

    def __init__(
        self,
        worker: type[Works[Any]],
        arguments: Mapping[str, Any],
        units: Mapping[str, Any],
        resources: CpuActorResources,
    ) -> None:
        self._worker, self._arguments, self._units, self._resources = worker, arguments, units, resources
        self._waiting = list(units)
        num_actors = min(resources.num_actors, len(units))
        check_room(worker.__name__, num_actors, {"CPU": resources.threads_per_actor, "GPU": resources.gpus})
        self._losses: dict[str, int] = {}
        self._busy: dict[Any, _Task] = {}
        self._idle = [self._start() for _ in range(num_actors)]

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._busy)

    def hand_out(self) -> None:
        while self._waiting and self._idle:
            (actor, is_there), name = self._idle.pop(), self._waiting.pop(0)
            self._busy[actor.run.remote(self._units[name])] = _Task(name, actor, is_there)

    def collect(self) -> list[tuple[str, Any]]:
        """What is done by now or within about a second. An actor that was found dead is replaced."""
        import ray

        done, _ = ray.wait(list(self._busy), num_returns=1, timeout=WAIT_SECONDS)
        results: list[tuple[str, Any]] = []
        for promise in done:
            task = self._busy.pop(promise)
            try:
                results.append((task.name, ray.get(promise)))
                self._idle.append((task.actor, task.is_there))
            except ray.exceptions.RayActorError as error:
                self._lose(task.name, str(error).strip().splitlines()[0])
            except ray.exceptions.RayTaskError as error:
                self._idle.append((task.actor, task.is_there))  # to be stopped with the others
                raise _own_error(error) from error
        return results

    def replace_stuck(self) -> None:
        import ray

        limit = self._resources.stuck_seconds
        for promise, task in list(self._busy.items()):
            if task.since is None and ray.wait([task.is_there], timeout=0)[0]:
                task.since = time.monotonic()
            if limit and task.since and time.monotonic() - task.since > limit:
                del self._busy[promise]
                ray.kill(task.actor)
                self._lose(task.name, f"it had no result in {limit:g} seconds")

    def kill(self) -> None:
        import ray

        for actor in [*(actor for actor, _ in self._idle), *(task.actor for task in self._busy.values())]:
            ray.kill(actor)

    def _lose(self, name: str, how: str) -> None:
        self._losses[name] = self._losses.get(name, 0) + 1
        if self._losses[name] > self._resources.max_restarts:
            raise PlatformError(
                f"{self._worker.__name__}: {self._losses[name]} actors died over unit {name!r} (the last: {how}); "
                "expected it to finish. Lower rows_per_batch or num_actors in the profile where memory runs out, raise "
                "stuck_seconds where a unit takes longer, then start again to resume."
            )
        self._waiting.insert(0, name)
        self._idle.append(self._start())

    def _start(self) -> tuple[Any, Any]:
        """A new actor, on the node that has the fewest; and the promise that it is there."""
        import ray

        threads, gpus = self._resources.threads_per_actor, self._resources.gpus
        seat = ray.remote(
            num_cpus=threads,
            num_gpus=gpus,
            runtime_env={"env_vars": worker_environment(threads, gpus)},
            scheduling_strategy="SPREAD",
        )(_Seat)
        actor = seat.remote(self._worker, self._arguments)
        return actor, actor.is_there.remote()


def _own_error(error: Any) -> BaseException:
    """The exception the work raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
