"""A team's servers on this machine: Prefect with everything deployed, a worker for it, MLflow, and the reaper of
what died without a word. On loopback only."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from flows.databases import Databases
from flows.reaping import BEAT
from infra.addresses import without_password
from infra.errors import ConfigError, PlatformError
from infra.marked_processes import Mark, stop
from infra.settings import Settings

HOST = "127.0.0.1"
POOL = "local"
WORKER = "frostline"
PARTS = ("prefect", "mlflow", "worker", "reaper")
REAP_SECONDS = 15
START_SECONDS = 180
"""A busy machine needs more than a minute for Prefect's first start with its migrations."""
FLOW_RUN_GRACE_SECONDS = 60
"""For a training to commit a checkpoint."""
SERVER_GRACE_SECONDS = 20
ANSWER_SECONDS = 5
POLL_SECONDS = 0.3
LAST_LINES = 5
DATABASES = ("MLFLOW_BACKEND_STORE_URI", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
DECIDING = (
    "PREFECT_API_URL", "MLFLOW_TRACKING_URI", *DATABASES, "FROSTLINE_STORE_URI", "FROSTLINE_CACHE_DIR", "RAY_ADDRESS",
    "AWS_ENDPOINT_URL",
)  # fmt: skip
"""Variables in which a running part and one that is asked for must agree: flow runs of the worker have them too."""
PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Ports:
    prefect: int = 4200
    mlflow: int = 5000


@dataclass(frozen=True)
class Part:
    """One server of the stack."""

    name: str
    command: tuple[str, ...]
    address: str
    is_up: Callable[[], bool]


@dataclass(frozen=True)
class Running:
    """A part that answers."""

    name: str
    pid: int
    address: str
    log: Path
    was_there: bool
    """Before this `up`."""


class Stack:
    """The servers that work in one `var_dir`."""

    def __init__(self, settings: Settings) -> None:
        self._var_dir = settings.var_dir.absolute().resolve()
        self._var_dir.mkdir(parents=True, exist_ok=True)
        self._logs = settings.logs
        place = self._var_dir.stat()  # a container may have another folder under the same name
        self._mark = Mark(f"{self._var_dir} {place.st_dev}:{place.st_ino}")

    def up(self, ports: Ports, databases: Databases, checkout: Path, tell: Callable[[str], None]) -> list[Running]:
        """Start what does not run yet, deploy `prefect.yaml` of the checkout, and return all parts.

        Raises ConfigError where a port is taken or a running part has another, PlatformError where a part ends or does
        not answer in time."""
        environment = self.environment(ports, databases)
        prefect, mlflow, *others = self._parts(ports)
        with self._alone():
            running = self._ensure([prefect, mlflow], environment, checkout, tell)
            tell("deploying prefect.yaml")
            _deploy(environment, checkout)
            return [*running, *self._ensure(others, environment, checkout, tell)]

    def down(self, tell: Callable[[str], None]) -> int:
        """Stop everything that `up` started, flow runs included, and return how many processes that were."""
        with self._alone():
            num_found = len(self._mark.processes())
            of_worker = [one for one in self._mark.marked() if one.part == "worker"]
            workers = [one.process for one in of_worker if one.is_first]
            ids = {one.process.pid for one in of_worker} - {worker.pid for worker in workers}
            # A worker that was killed leaves its flow runs without a parent of ours.
            flow_runs = [one.process for one in of_worker if not one.is_first and one.parent not in ids]
            if flow_runs:
                tell(f"stopping {len(flow_runs)} flow runs (at most {FLOW_RUN_GRACE_SECONDS} s: checkpoints)")
            stop([*workers, *flow_runs], FLOW_RUN_GRACE_SECONDS)  # workers first: they take no other flow run
            stop(self._mark.processes(), SERVER_GRACE_SECONDS)
            return num_found

    def running(self) -> dict[str, int]:
        """Process ids of the parts that are alive."""
        found = {name: self._mark.first_of(name) for name in PARTS}
        return {name: one.process.pid for name, one in found.items() if one is not None}

    def client_environment(self, ports: Ports) -> dict[str, str]:
        """What a command needs to use the servers."""
        proxied = any(name in os.environ for name in PROXIES)
        excepted = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost"]))
        return {
            **({"NO_PROXY": excepted, "no_proxy": excepted} if proxied else {}),
            "PREFECT_API_URL": f"http://{HOST}:{ports.prefect}/api",
            "MLFLOW_TRACKING_URI": f"http://{HOST}:{ports.mlflow}",
            "FROSTLINE_VAR_DIR": str(self._var_dir),
        }

    def environment(self, ports: Ports, databases: Databases) -> dict[str, str]:
        """What servers, worker and flow runs are started with."""
        found = {
            **os.environ,
            **self.client_environment(ports),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PREFECT_HOME": str(self._var_dir / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for what nobody here asks of it
            # Not by an argument, which everybody on the machine could read.
            "MLFLOW_BACKEND_STORE_URI": databases.mlflow,
        }
        if databases.prefect is not None:
            found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = databases.prefect
        return found

    def _parts(self, ports: Ports) -> tuple[Part, Part, Part, Part]:
        api, mlflow = f"http://{HOST}:{ports.prefect}/api", f"http://{HOST}:{ports.mlflow}"
        artifacts = (self._var_dir / "mlflow" / "artifacts").as_uri()
        since = datetime.now(UTC)
        return (
            Part(
                "prefect",
                ("prefect", "server", "start", "--host", HOST, "--port", str(ports.prefect)),
                api.removesuffix("/api"),
                lambda: _answers(f"{api}/health"),
            ),
            Part(
                "mlflow",
                ("mlflow", "server", "--host", HOST, "--port", str(ports.mlflow), "--workers", "1",
                 "--artifacts-destination", artifacts),
                mlflow,
                lambda: _answers(f"{mlflow}/health"),
            ),
            Part(
                "worker",
                ("prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", WORKER),
                f"pool {POOL}",
                lambda: _worker_was_heard(api, since),
            ),
            Part(
                "reaper",
                ("frostline", "reap", "--every", str(REAP_SECONDS)),
                f"every {REAP_SECONDS} s",
                lambda: _was_touched(self._var_dir / BEAT, since),
            ),
        )  # fmt: skip

    def _ensure(
        self, parts: Sequence[Part], environment: Mapping[str, str], checkout: Path, tell: Callable[[str], None]
    ) -> list[Running]:
        """All are started before the first is waited for."""
        started = [self._started(part, environment, checkout, tell) for part in parts]
        return [self._answering(part, *one) for part, one in zip(parts, started, strict=True)]

    def _started(
        self, part: Part, environment: Mapping[str, str], checkout: Path, tell: Callable[[str], None]
    ) -> tuple[psutil.Process, bool]:
        """Its process, and whether it was there before."""
        found = self._mark.first_of(part.name)
        if found is not None:
            _check_is_alike(part, found.environment, environment)
            return found.process, True
        _check_port_is_free(part)
        tell(f"starting {part.name} ({part.address})")
        command = [str(Path(sys.executable).parent / part.command[0]), *part.command[1:]]
        return self._mark.start(part.name, command, environment, checkout, self._logs / f"{part.name}.log"), False

    def _answering(self, part: Part, process: psutil.Process, was_there: bool) -> Running:
        log = self._logs / f"{part.name}.log"
        deadline = time.monotonic() + START_SECONDS
        while not part.is_up():
            if not process.is_running() or process.status() == "zombie":
                raise PlatformError(f"{part.name} ended at its start: {_end_of(log)} Its log: {log}")
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"{part.name} did not answer at {part.address} within {START_SECONDS} s; expected it to. "
                    f"Look into {log}, then `frostline down` and `frostline up` again."
                )
            time.sleep(POLL_SECONDS)
        return Running(part.name, process.pid, part.address, log, was_there)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two commands at once would start a server each."""
        with (self._var_dir / "stack.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _deploy(environment: Mapping[str, str], checkout: Path) -> None:
    """Everything in `prefect.yaml`, again at each `up`, so that what changed there is in force."""
    if not (checkout / "prefect.yaml").is_file():
        raise ConfigError(
            f"{checkout}: there is no prefect.yaml; expected the folder of Frostline's checkout, or one with a "
            "prefect.yaml of your own. Start `frostline up` there."
        )
    if not _answers(f"{environment['PREFECT_API_URL']}/work_pools/{POOL}"):
        _prefect(environment, checkout, "work-pool", "create", POOL, "--type", "process")
    _prefect(environment, checkout, "deploy", "--all")


def _prefect(environment: Mapping[str, str], checkout: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / "prefect"), "--no-prompt", *arguments]
    done = subprocess.run(command, env=dict(environment), cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        told = " ".join((done.stdout + done.stderr).split()[-60:])
        raise PlatformError(f"`prefect {' '.join(arguments)}` failed: {told}. Correct that, then `frostline up` again.")


_DIRECT = build_opener(ProxyHandler({}))
"""Past any proxy: all of it is on this machine."""


def _answers(url: str) -> bool:
    with suppress(OSError), _DIRECT.open(url, timeout=ANSWER_SECONDS):
        return True
    return False


def _worker_was_heard(api: str, since: datetime) -> bool:
    """Whether the server has a heartbeat of ours that is younger."""
    asked = Request(f"{api}/work_pools/{POOL}/workers/filter", b"{}", {"Content-Type": "application/json"})
    try:
        with _DIRECT.open(asked, timeout=ANSWER_SECONDS) as answer:
            workers = json.load(answer)
    except OSError:
        return False
    heard = (each["last_heartbeat_time"] for each in workers if each["name"] == WORKER)
    return any(datetime.fromisoformat(time) >= since for time in heard)


def _was_touched(file: Path, since: datetime) -> bool:
    return file.exists() and file.stat().st_mtime >= since.timestamp()


def _check_port_is_free(part: Part) -> None:
    if (port := urlparse(part.address).port) is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is taken by another program; expected it to be free for {part.name}. "
                f"Stop that program, or choose another port with --{part.name}-port."
            ) from error


def _check_is_alike(part: Part, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name in DECIDING:
        if found.get(name) != expected.get(name):
            shown = (
                ["another database", "its own"]
                if name in DATABASES
                else [without_password(str(one.get(name))) for one in (found, expected)]
            )
            raise ConfigError(
                f"{part.name} runs already with {name}={shown[0]}; expected {shown[1]}. "
                "Stop it with `frostline down` first, or ask for the same."
            )


def _end_of(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:])[:600] or "it said nothing."
