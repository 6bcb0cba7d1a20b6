"""What a real Prefect server knows of flow runs: states, failures, and steps that were reused whole."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect_server import ask, prefect_server
from servers import free_port
from storied import four_weeks

from flows.metrics import Metrics
from flows.prefect_story import FLOWS, prefect_story
from flows.storytelling import tell
from infra.store import LocalStore
from training.made import OutputReader

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

@task(cache_policy=NO_CACHE)
def train():
    return Completed(name="Cached", message=f"reused: made 2026-03-01T06:00:00Z, fingerprint {sys.argv[1]}")

@flow(name="retrain")
def retrain(fails):
    train()
    if fails:
        raise ValueError("no rows were found")

retrain(False)
try:
    retrain(True)
except ValueError:
    pass
"""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with prefect_server(tmp_path) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        yield url


def test_prefect_adds_states_failures_and_what_whole_steps_saved(api: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    four_weeks(store)
    made, _ = OutputReader(store).read()
    train = next(one for one in made if one.step == "train")
    environment = {**os.environ, "PREFECT_API_URL": api}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, train.fingerprint[:12]], env=environment, check=True, capture_output=True
    )
    # This process read Prefect's settings before there was a server.
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        found = prefect_story(made)
        told, _ = tell(OutputReader(store))
        gauges = {family.name: family for family in Metrics(store).collect()}
    assert found is not None and not found.is_cut
    assert [(one.flow, one.state, one.count) for one in found.flow_runs] == [
        ("retrain", "Completed", 1), ("retrain", "Failed", 1),
    ]  # fmt: skip
    (failure,) = found.failures
    assert failure.state == "Failed" and "no rows were found" in failure.message
    (reused,) = found.reused
    assert (reused.step, reused.times, reused.accelerator_seconds_saved) == ("train", 2, 2 * 4 * 300)
    assert told.accelerator_seconds_saved == pytest.approx(910 + 2400)
    assert [one.value for one in gauges["frostline_steps_reused"].samples] == [2]
    runs = {one.labels["state"]: one.value for one in gauges["frostline_flow_runs"].samples}
    assert runs == {"Completed": 1, "Failed": 1, "Crashed": 0, "Cancelled": 0}


def test_runs_to_come_and_flows_of_others_take_no_place_of_what_was_run(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more of them than are read."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setattr("flows.prefect_story.PAGE", 2)
    monkeypatch.setattr("flows.prefect_story.MAX_PAGES", 3)

    def run(flow: str, state: str, **details: str) -> None:
        flow_id = ask(prefect_api, "flows/", {"name": flow})["id"]
        body = {"flow_id": flow_id, "name": flow, "state": {"type": state, "state_details": details}}
        ask(prefect_api, "flow_runs/", body)

    run("refuse", "FAILED")
    for _ in range(7):
        run("refuse", "SCHEDULED", scheduled_time="2099-01-01T00:00:00Z")
        run("payroll", "FAILED")
    found = prefect_story([])
    assert found is not None
    assert all(one.state != "Scheduled" and one.flow != "payroll" for one in found.flow_runs), found
    assert ("refuse", "Failed", 1) in [(one.flow, one.state, one.count) for one in found.flow_runs]
    assert "refuse" in [one.flow_run for one in found.failures]


def test_what_is_told_of_is_what_prefect_yaml_deploys() -> None:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert {each["entrypoint"].partition(":")[2] for each in deployments} == set(FLOWS)


def test_a_prefect_that_is_away_is_told_and_the_store_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    four_weeks(store)
    url = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        told, _ = tell(OutputReader(store))
    assert told.prefect is None and told.prefect_problem is not None
    assert told.prefect_problem.startswith("Prefect at PREFECT_API_URL did not answer")
    assert told.encodes_saved == 4500
