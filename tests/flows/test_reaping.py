"""The reaper on real claims of real processes: what one model holds up keeps nothing from the others."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.reaping import BEAT, reap, reap_again_and_again
from infra.errors import FrostlineError
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
with claims.held(this_process("retrain of tiny", "11111111-1111-4111-8111-111111111111"), "queue", print, print):
    os._exit(0)
"""


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


def test_the_reaper_outlives_what_a_pass_raises(workspace: Workspace) -> None:
    damaged = "register/claims/tiny/waiting/damaged"
    workspace.store.write(damaged, b"{}")
    told: list[str] = []

    def mend(problem: str) -> None:
        told.append(problem)
        workspace.store.delete(damaged)

    class Over(BaseException):
        """Ends the loop, which otherwise only the end of its process does."""

    def end(_: object) -> None:
        raise Over

    with pytest.raises(Over):
        reap_again_and_again(workspace.store, 0, end, mend)
    assert "this pass failed: ValidationError" in told[0]


@pytest.mark.parametrize("prefect_api", [None, "http://127.0.0.1:9/api"])
def test_what_a_dead_flow_run_held_stays_until_prefect_was_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, prefect_api: str | None
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if prefect_api is not None:
        monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    subprocess.run([sys.executable, "-c", DIE, workspace.store.uri.removeprefix("file://")], check=True, cwd=REPOSITORY)
    # As where a flow ran in this process before the environment named a server.
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        for _ in range(2):
            with pytest.raises(FrostlineError, match="PREFECT_API_URL"):
                reap(workspace.store)
    assert not workspace.store.exists("register/claims/tiny/00000001/released")
