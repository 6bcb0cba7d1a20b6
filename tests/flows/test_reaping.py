"""The reaper on real claims of real processes: what one model holds up keeps nothing from the others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import ask, state_of
from receiver import Receiver

from flows.reaping import BEAT, Pass, reap, reap_again_and_again
from infra.errors import IntegrityError
from infra.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
FROSTLINE = str(Path(sys.executable).parent / "frostline")
DIE = """
import os, sys
from flows.claiming import claims_on
from flows.opened import open_workspace
from infra.holders import this_process
from infra.progress import Silent

claims = claims_on(open_workspace("laptop", Silent(), sys.argv[1]).store, "tiny")
with claims.held(this_process("retrain of tiny", sys.argv[2] or None), "queue", print, print):
    os._exit(0)
"""
NOWHERE = "11111111-1111-4111-8111-111111111111"


def die(workspace: Workspace, flow_run_id: str | None) -> None:
    """A process that has the claim on `tiny`, and dies."""
    store = workspace.store.uri.removeprefix("file://")
    subprocess.run([sys.executable, "-c", DIE, store, flow_run_id or ""], check=True, cwd=REPOSITORY)


def test_the_reaper_beats_where_its_folder_is_not_there_yet(tmp_path: Path) -> None:
    var = tmp_path / "fresh" / "volume"
    reaper = subprocess.Popen(
        [FROSTLINE, "reap", "--every", "1", "--store", str(tmp_path / "store")],
        env={**os.environ, "FROSTLINE_VAR_DIR": str(var), "FROSTLINE_CACHE_DIR": str(tmp_path / "cache")},
        stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (var / BEAT).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        reaper.terminate()
        _, said = reaper.communicate(timeout=20)
    assert (var / BEAT).exists(), said


def test_what_cannot_be_read_of_one_model_is_told_and_keeps_nobody_from_being_reaped(workspace: Workspace) -> None:
    damaged = "register/claims/another/waiting/damaged"
    workspace.store.write(damaged, b"{}")
    die(workspace, flow_run_id=None)
    found = reap(workspace.store)
    assert [one.holder.what for one in found.reaped] == ["retrain of tiny"]
    assert isinstance(found.problem, IntegrityError)
    assert f"{damaged}: nobody who waits" in str(found.problem)
    assert workspace.store.exists("register/claims/tiny/00000001/released")


def test_the_reaper_outlives_what_a_pass_raises_again_and_again(workspace: Workspace) -> None:
    workspace.store.write("register/claims/tiny/waiting/damaged", b"{}")
    passes: list[Pass] = []
    told: list[str] = []

    class Over(BaseException):
        """Ends the loop, which otherwise only the end of its process does."""

    def on_pass(found: Pass) -> None:
        passes.append(found)
        if len(passes) == 3:
            raise Over
        raise OSError("the disk is full")

    with pytest.raises(Over):
        reap_again_and_again(workspace.store, 0, on_pass, told.append)
    assert told == ["this pass failed: OSError: the disk is full"] * 2
    assert all(isinstance(found.problem, IntegrityError) for found in passes)


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9/api"])
def test_what_a_dead_flow_run_held_stays_until_prefect_was_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if address is not None:
        monkeypatch.setenv("PREFECT_API_URL", address)
    die(workspace, NOWHERE)
    # As where a flow ran in this process before the environment named a server.
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        for _ in range(2):
            found = reap(workspace.store)
            assert found.reaped == [] and "PREFECT_API_URL" in str(found.problem)
    assert not workspace.store.exists("register/claims/tiny/00000001/released")


@pytest.fixture
def dead(workspace: Workspace, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A flow run that Prefect takes for running, and whose process died with the claim on `tiny`."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    flow = ask(prefect_api, "flows/", {"name": "retrain"})["id"]
    made = ask(prefect_api, "flow_runs/", {"flow_id": flow, "name": "monday", "state": {"type": "RUNNING"}})["id"]
    die(workspace, made)
    return str(made)


@pytest.mark.slow
def test_a_crash_is_told_before_prefect_knows_of_it_so_that_a_reaper_that_dies_tells_it_again(
    workspace: Workspace, dead: str, prefect_api: str, receiver: Receiver
) -> None:
    states: list[str] = []

    class Noting(list[tuple[dict[str, str], bytes]]):
        def append(self, told: tuple[dict[str, str], bytes]) -> None:
            states.append(state_of(prefect_api, dead)["name"])
            super().append(told)

    receiver.got = Noting()
    found = reap(workspace.store)
    assert found.problem is None, found.problem
    assert [one.flow_run for one in found.reaped] == ["monday is marked as Crashed"]
    ((headers, body),) = receiver.got
    assert (headers["X-Frostline-Delivery"], json.loads(body)["state"]) == (f"{dead}-Crashed", "Crashed")
    assert (states, state_of(prefect_api, dead)["name"]) == (["Running"], "Crashed")


@pytest.mark.slow
def test_a_receiver_that_is_away_keeps_no_claim_from_being_freed_and_the_reaper_says_so(
    workspace: Workspace, dead: str, prefect_api: str, receiver: Receiver
) -> None:
    receiver.statuses = [500]
    (one,) = reap(workspace.store).reaped
    assert one.flow_run.startswith("monday is marked as Crashed; webhook: the receiver was answered 500")
    assert one.flow_run.endswith("That monday is Crashed is not told again.")
    assert state_of(prefect_api, dead)["name"] == "Crashed"
    assert workspace.store.exists("register/claims/tiny/00000001/released")
