"""What Prefect and the webhook are told of a retrain that is asked to end: it was cancelled, and nothing failed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect_server import state_of
from receiver import receiving

from flows.claiming import CLAIMS, claimed
from flows.recipe import load_recipe
from infra.holders import this_process
from infra.log import create_in
from infra.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "recipes" / "tiny.yaml"
RETRAIN = """
import sys, time
from pathlib import Path
from prefect.runtime import flow_run
from flows import retrain
from infra.errors import DataError, Interrupted
from infra.ray import connected
from infra.settings import RayResources
from training.launch import _asked_to_stop

def computes(*_):
    print(flow_run.get_id(), flush=True)
    time.sleep(120)

def waits_for_actors(*_):
    with connected(RayResources(num_cpus=1), Path(sys.argv[3]).parent / "logs"):
        print(flow_run.get_id(), flush=True)
        time.sleep(120)

def trains(*_):
    with _asked_to_stop() as asked:
        print(flow_run.get_id(), flush=True)
        asked.wait(120)
    raise Interrupted("stopped after global step 7 with a checkpoint.")

def fails(*_):
    print(flow_run.get_id(), flush=True)
    raise DataError("no rows were found")

retrain.run_step = globals()[sys.argv[1]]
retrain.retrain(sys.argv[2], store_uri=sys.argv[3], return_state=True)
"""


@contextmanager
def replaced(_: Any, workspace: Workspace) -> Iterator[None]:
    """The other one goes on as soon as this one has ended."""
    with claimed(load_recipe(str(TINY), ["overlap=replace"]), workspace, print) as holding:
        assert holding.claim is not None and holding.claim.number == 2
        yield


@contextmanager
def terminated(process: subprocess.Popen[str], _: Any) -> Iterator[None]:
    process.terminate()
    yield


@contextmanager
def taken_for_dead(_: Any, workspace: Workspace) -> Iterator[None]:
    holder = this_process("the reaper").model_dump()
    assert create_in(workspace.store, f"{CLAIMS}/tiny", 2, {"holder": holder})
    yield


@contextmanager
def left_alone(*_: Any) -> Iterator[None]:
    yield


ENDS: list[tuple[str, Callable[..., AbstractContextManager[None]], str, str, int]] = [
    ("computes", replaced, "Cancelled", "asked to end, for retrain of tiny on", 0),
    ("trains", replaced, "Cancelled", "asked to end, for retrain of tiny on", 0),
    ("computes", terminated, "Cancelled", "stopped by SIGTERM", 0),
    ("waits_for_actors", terminated, "Cancelled", "stopped by SIGTERM", 0),
    ("trains", terminated, "Cancelled", "stopped after global step 7", 0),
    ("computes", taken_for_dead, "Failed", "claim 1 of retrain of tiny was lost", 1),
    ("fails", left_alone, "Failed", "no rows were found", 1),
]


@pytest.mark.parametrize(("work", "what", "state", "message", "notices"), ENDS)
def test_a_retrain_that_is_asked_to_end_is_cancelled_and_only_what_failed_is_told_as_failed(
    workspace: Workspace, prefect_api: str, work: str, what: Any, state: str, message: str, notices: int
) -> None:
    with receiving() as receiver:
        own = {
            "PREFECT_API_URL": prefect_api,
            "FROSTLINE_WEBHOOK_URL": receiver.url,
            "FROSTLINE_WEBHOOK_SECRET": "between us",
            "FROSTLINE_VAR_DIR": str(workspace.settings.var_dir),
        }
        store = workspace.store.uri.removeprefix("file://")
        process = subprocess.Popen(
            [sys.executable, "-c", RETRAIN, work, str(TINY), store],
            env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            flow_run = process.stdout.readline().strip()
            with what(process, workspace):
                deadline = time.monotonic() + 100
                while (found := state_of(prefect_api, flow_run))["type"] == "RUNNING" and time.monotonic() < deadline:
                    time.sleep(0.3)
                process.wait(60)
        finally:
            process.kill()
            process.wait()
        assert (found["name"], message in found["message"]) == (state, True), found
        told = [json.loads(body) for _, body in receiver.got]
    assert [(one["event"], one["flow_run_id"]) for one in told] == [("frostline.run.failed", flow_run)] * notices
