"""Connecting to Ray, and sharing units of work among actors that may die."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from infra.errors import ConfigError, PlatformError
from infra.settings import CpuActorResources, RayResources

Result = TypeVar("Result", covariant=True)
WAIT_SECONDS = 1.0
CONNECT_SECONDS = 10.0
STARTS = 3


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


@contextmanager
def connected(resources: RayResources, log_dir: Path) -> Iterator[bool]:
    """Join the cluster of the profile or of RAY_ADDRESS, or start Ray on this machine and stop it at the end.

    Gives whether it was started here: only then everything on it is ours.
    Call it on a thread that lasts: a cluster started from a thread that ends is lost with it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's own 15, whatever else runs would leave them 3 %
    import ray

    if ray.is_initialized():
        yield False
        return
    log_dir.mkdir(parents=True, exist_ok=True)
    address = resources.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"address": address, "log_to_driver": False}
    if address == "local":
        options |= {
            "num_cpus": resources.num_cpus,
            "object_store_memory": resources.object_store_memory_bytes,
            "include_dashboard": False,
        }
    try:
        if address != "local":
            _knock(address)
        _init({"logging_level": "ERROR", **options})
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise PlatformError(
            f"Ray at {address} cannot be reached ({str(error).splitlines()[0]}); expected a running cluster or room to "
            "start one. Check ray.address in the profile, RAY_ADDRESS and /dev/shm."
        ) from error
    try:
        yield address == "local"
    finally:
        ray.shutdown()


def _init(options: Mapping[str, Any]) -> None:
    """Raises RuntimeError where Ray is started here and was not up in time at any of STARTS starts: each has Ray's own
    30 s, which a busy machine may need more than."""
    import ray

    for left in reversed(range(STARTS)):
        with _process_groups_of_their_own() as started:
            try:
                ray.init(**options)
                return
            except Exception as error:
                ray.shutdown()
                for process in started:
                    process.kill()
                    process.wait()
                if type(error) is not Exception:  # its own way to say that its time is over
                    raise
                if not left:
                    raise RuntimeError(str(error)) from error


@contextmanager
def _process_groups_of_their_own() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What is started here, and listed, is not in our process group: Prefect cancels a flow run by SIGTERM to its whole
    group, and without Ray no rank could commit a checkpoint any more. Ray itself sees to it that its processes end with
    ours."""
    import ray._private.services as services

    before = services.ConsolePopen
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(before(*arguments, process_group=0, **options))
        return started[-1]

    services.ConsolePopen = start
    try:
        yield started
    finally:
        services.ConsolePopen = before


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():  # not `auto`
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def check_room(what: str, count: int, needs: Mapping[str, float]) -> None:
    """Raises ConfigError where `count` workers with these needs (`CPU`, `GPU`) do not fit: Ray would wait for ever.

    A cluster of several nodes may grow and is trusted."""
    import ray

    if len(ray.nodes()) > 1:
        return
    for kind, each in needs.items():
        found = ray.cluster_resources().get(kind, 0)
        if count * each > found:
            raise ConfigError(
                f"{what}: {count} of them need {count * each:g} {kind}s; expected at most {found:g}. "
                "Lower their number or their threads in the profile, or raise ray.num_cpus."
            )


_KEEPS_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""glibc would map each large tensor anew and give it back at once, which cost MobileNetV2 more time in page faults than
in arithmetic (34 CPU-ms an image, 15 with this), and threads that come and go would leave arenas behind."""


def worker_environment(threads: int, gpus: float) -> dict[str, str]:
    """Variables of a worker process. Without GPUs of its own it sees none, whatever the machine has."""
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **_KEEPS_MEMORY}
    return environment if gpus else {**environment, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


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
