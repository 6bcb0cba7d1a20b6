"""Connecting to Ray, or starting it here; what its processes get."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, PlatformError
from infra.settings import RayResources

CONNECT_SECONDS = 10.0
STARTS = 3


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
        with _sigterm_stays_ours():
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
def _sigterm_stays_ours() -> Iterator[None]:
    """Ray's own handler ends the program by SystemExit, in which Prefect sees a crash, and 3 s later by SIGABRT.
    Where nobody handles SIGTERM, Ray's stays."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and ours not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, ours)


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
