"""`frostline up` on PostgreSQL with the store on S3: Prefect server, worker and MLflow, everything deployed."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from receiver import Receiver, receiving
from stack import TINY, Stack, brought_up, checkpoints, frostline, processes_of, start_retrain, state_of, wait_for

from infra.tracking import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with brought_up(tmp_path_factory.mktemp("stack")) as found:
        yield found


def test_a_second_up_starts_nothing(stack: Stack) -> None:
    assert [part["was_there"] for part in stack.first["parts"]] == [False] * 4
    assert [part["was_there"] for part in stack.second["parts"]] == [True] * 4
    assert [part["pid"] for part in stack.second["parts"]] == [part["pid"] for part in stack.first["parts"]]


def test_every_flow_is_deployed_and_only_retrain_and_watch_have_a_schedule(stack: Stack) -> None:
    deployments = stack.ask("deployments/filter", {})
    assert len(deployments) == 12
    assert {each["name"] for each in deployments if each["schedules"]} == {"scheduled", "daily"}


def test_the_cron_schedule_creates_scheduled_runs(stack: Stack) -> None:
    deadline = time.monotonic() + 90
    runs: list[dict[str, Any]] = []
    while not runs and time.monotonic() < deadline:
        runs = stack.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        time.sleep(1)
    assert runs, "the scheduler created no run within 90 s"
    assert all(run["auto_scheduled"] for run in runs)


def test_a_training_that_is_cancelled_commits_a_checkpoint_and_is_gone_within_30_seconds(stack: Stack) -> None:
    flow_run = start_retrain(stack)
    wait_for("a checkpoint of train", lambda: checkpoints(stack, "train"), 900)  # from nothing
    before = checkpoints(stack, "train")
    cancelled_at = time.monotonic()
    stack.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for("the end of all its processes", lambda: not processes_of(flow_run), 30)
    print(f"gone after {time.monotonic() - cancelled_at:.1f} s")
    wait_for("its state", lambda: state_of(stack, flow_run)["name"] == "Cancelled", 30)
    # The flow run's own word, until Prefect's worker says its: SIGKILL was not needed.
    told = state_of(stack, flow_run)["message"]
    assert "with a checkpoint" in told or "successfully" in told
    assert set(checkpoints(stack, "train")) - set(before)


def champion_aliases(stack: Stack) -> set[str]:
    with urlopen(f"{stack.mlflow_uri}/api/2.0/mlflow/registered-models/get?name=tiny", timeout=20) as answer:
        return {alias["alias"] for alias in json.load(answer)["registered_model"].get("aliases", [])}


def test_a_deployment_trains_and_registers_a_model_and_its_second_run_is_cached_and_sets_a_lost_alias(
    stack: Stack,
) -> None:
    run = ["deployment", "run", "retrain/scheduled", "--param", f"recipe={TINY}", "--watch", "--watch-timeout", "1000"]
    first = stack.prefect(*run)
    assert first.returncode == 0, first.stdout + first.stderr
    assert champion_aliases(stack) == {"champion"}

    Registry(stack.mlflow_uri).delete_alias("tiny", "champion")
    assert champion_aliases(stack) == set()
    second = stack.prefect(*run)
    assert second.returncode == 0, second.stdout + second.stderr
    assert champion_aliases(stack) == {"champion"}
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


def test_watch_says_why_and_starts_one_retrain_a_day_for_the_same_champion_and_rows(stack: Stack) -> None:
    """On the model of the test above, whose rows are today's."""

    def watch(assignment: str) -> dict[str, Any]:
        parameters = ["--param", f"recipe={TINY}", "--param", f'assignments=["{assignment}"]']
        done = stack.prefect("deployment", "run", "watch/daily", *parameters, "--watch", "--watch-timeout", "300")
        assert done.returncode == 0, done.stdout + done.stderr
        latest = {"artifacts": {"key": {"any_": ["frostline-watch"]}}, "sort": "UPDATED_DESC", "limit": 1}
        return {"told": stack.ask("artifacts/filter", latest)[0]["data"], "retrains": num_retrains(stack)}

    before = num_retrains(stack)
    quiet = watch("watch.champion_age_days=30")
    assert "nothing calls for a retrain" in quiet["told"] and "drift: 0 train images are new" in quiet["told"]
    assert quiet["retrains"] == before
    first, second = (watch("watch.champion_age_days=0.00001") for _ in range(2))
    assert "tiny: retrain" in first["told"] and "version 1 was trained 0.0 days ago" in first["told"]
    assert (first["retrains"], second["retrains"]) == (before + 1, before + 1)


def num_retrains(stack: Stack) -> int:
    started = {"flow_runs": {"tags": {"all_": ["frostline"]}}, "flows": {"name": {"any_": ["retrain"]}}}
    return sum(not run["auto_scheduled"] for run in stack.ask("flow_runs/filter", started))


MAKE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
body = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="team", url=sys.argv[1], json_data=body, allow_private_urls=True).save("team")
"""


@pytest.fixture
def team(stack: Stack) -> Iterator[Receiver]:
    """Whom a notification block of Prefect sends to."""
    with receiving() as found:
        subprocess.run([sys.executable, "-c", MAKE_BLOCK, found.url], env=stack.environment, check=True, timeout=120)
        yield found


def test_promotion_and_rollback_are_deployments_and_automations_send_what_a_team_wants_to_hear(
    stack: Stack, team: Receiver
) -> None:
    """On the model of the test above: its one version is the champion already, and there is nothing to go back to."""
    made, again = (frostline(stack.environment, "notify", "custom-webhook/team", "--json") for _ in range(2))
    assert [one["was_there"] for one in made] == [False] * 5 and [one["was_there"] for one in again] == [True] * 5
    watched = ["--param", "model=tiny", "--watch", "--watch-timeout", "200"]
    promoted = stack.prefect("deployment", "run", "promote/by-hand", "--param", "version=1", *watched)
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    refused = stack.prefect("deployment", "run", "rollback/by-hand", *watched)
    assert refused.returncode != 0
    failed = stack.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}})
    assert any("there is no former champion (version 1 is the first one)" in run["state"]["message"] for run in failed)
    wait_for("a notification", lambda: team.got, 30)
    (sent,) = (json.loads(body) for _, body in team.got)
    assert sent["subject"] == "rollback: rollback-tiny is Failed"
    assert "there is no former champion" in sent["body"]


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
