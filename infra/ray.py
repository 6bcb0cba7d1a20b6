"""Connecting to Ray, and sharing units of work among actors that may die."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from infra.errors import ConfigError, PlatformError
from infra.progress import Progress
from infra.settings import CpuActorResources, RayResources

Result = TypeVar("Result", covariant=True)
WAIT_SECONDS = 1.0
CONNECT_SECONDS = 10.0


class Works(Protocol[Result]):
    """A class whose instances live in an actor and turn a unit of work into a result."""

    def run(self, unit: Any) -> Result: ...


class _Seat:
    """Makes the worker at its first unit, so that its constructor's error is raised as it is, not taken for a death."""

    def __init__(self, worker: type[Works[Any]], arguments: Mapping[str, Any]) -> None:
        self._make: Callable[[], Works[Any]] = lambda: worker(**arguments)
        self._worker: Works[Any] | None = None

    def run(self, unit: Any) -> Any:
        if self._worker is None:
            self._worker = self._make()
        return self._worker.run(unit)


class Board:
    """Lives in an actor: what workers say of their progress, until the driver takes it."""

    def __init__(self) -> None:
        self._said: list[tuple[str, int, str]] = []

    def say(self, label: str, amount: int, note: str) -> None:
        """`amount` more units of `label` are done."""
        self._said.append((label, amount, note))

    def take(self) -> list[tuple[str, int, str]]:
        said, self._said = self._said, []
        return said


def start_board() -> Any:
    """A board's actor handle; it costs no CPU of the cluster's count."""
    import ray

    return ray.remote(num_cpus=0)(Board).remote()


def pass_on(board: Any, progress: Progress) -> None:
    """Tell `progress` what the workers said since the last call."""
    import ray

    for label, amount, note in ray.get(board.take.remote()):
        progress.advance(label, amount, note)


@contextmanager
def connected(resources: RayResources, log_dir: Path) -> Iterator[None]:
    """Join the cluster of the profile, or start Ray on this machine and stop it at the end.

    Call it on a thread that lasts: a cluster started from a thread that ends is lost with it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    log_dir.mkdir(parents=True, exist_ok=True)
    local = resources.address is None
    options: dict[str, Any] = {"address": "local" if local else resources.address, "log_to_driver": False}
    if local:
        options |= {
            "num_cpus": resources.num_cpus,
            "object_store_memory": resources.object_store_memory_bytes,
            "include_dashboard": False,
        }
    try:
        if not local:
            _knock(str(resources.address))
        ray.init(logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise PlatformError(
            f"Ray at {resources.address or 'this machine'} cannot be reached ({str(error).splitlines()[0]}); "
            "expected a running cluster or room to start one. Check ray.address in the profile and /dev/shm."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


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


def worker_environment(threads: int, gpus: float) -> dict[str, str]:
    """Variables of a worker process. Without GPUs of its own it sees none, whatever the machine has."""
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
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

    An actor that dies costs the unit it had: a new one takes the unit over, at most `max_restarts` times per unit.
    Errors raised by the work itself are raised here as they are. `on_wait` is called about every second.
    """
    import ray

    environment = worker_environment(resources.threads_per_actor, resources.gpus)
    remote = ray.remote(
        num_cpus=resources.threads_per_actor, num_gpus=resources.gpus, runtime_env={"env_vars": environment}
    )(_Seat)

    def start() -> Any:
        return remote.remote(worker, arguments)

    waiting = list(units)
    num_actors = min(resources.num_actors, len(waiting))
    check_room(worker.__name__, num_actors, {"CPU": resources.threads_per_actor, "GPU": resources.gpus})
    deaths: dict[str, int] = {}
    busy: dict[Any, tuple[str, Any]] = {}
    idle = [start() for _ in range(num_actors)]
    try:
        while waiting or busy:
            while waiting and idle:
                actor, name = idle.pop(), waiting.pop(0)
                busy[actor.run.remote(units[name])] = (name, actor)
            done, _ = ray.wait(list(busy), num_returns=1, timeout=WAIT_SECONDS)
            on_wait()
            if not done:
                continue
            name, actor = busy.pop(done[0])
            try:
                result = ray.get(done[0])
            except ray.exceptions.RayActorError as error:
                deaths[name] = deaths.get(name, 0) + 1
                if deaths[name] > resources.max_restarts:
                    raise _gave_up(worker, name, deaths[name], error) from error
                waiting.insert(0, name)
                idle.append(start())
                continue
            except ray.exceptions.RayTaskError as error:
                raise _own_error(error) from error
            on_result(name, result)
            idle.append(actor)
    finally:
        for actor in [*idle, *(actor for _, actor in busy.values())]:
            ray.kill(actor)


def _own_error(error: Any) -> BaseException:
    """The exception the work raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _gave_up(worker: type, name: str, deaths: int, error: BaseException) -> PlatformError:
    reason = str(error).strip().splitlines()[0]
    return PlatformError(
        f"{worker.__name__}: {deaths} actors died over unit {name!r} ({reason}); expected it to finish. "
        "Most often memory runs out: lower rows_per_batch or num_actors in the profile, then start again to resume."
    )
