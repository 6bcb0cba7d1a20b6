"""Deployments under faults: cancelled and killed in every step, servers away, many at once; and what is there then.

One stack for the file, and tests in the order of the file: each goes on from the store that the one before left."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from stack import TINY, Stack, brought_up, frostline, keys, processes_of, start_retrain, state_of, wait_for

from infra.outputs import Manifest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
SIGNS_OF_WORK = {
    "ingest": "ingest/journal/",
    "base": "base/checkpoints/",
    "featurize": "featurize/journal/",
    "train": "train/checkpoints/",
    "evaluate": "evaluate/journal/",
    "register": "register/claims/",
}
"""What appears in the store once a step has done something."""
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
NUM_ROUNDS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with brought_up(tmp_path_factory.mktemp("stack")) as found:
        yield found


def is_committed(stack: Stack, step: str) -> bool:
    return any(key.endswith("/manifest.json") and key.count("/") == 2 for key in keys(stack, f"{step}/"))


def is_at_work(stack: Stack, step: str, flow_run: str) -> bool:
    """Of `register`, its task is running: it is over in seconds."""
    assert state_of(stack, flow_run)["type"] not in FINAL, state_of(stack, flow_run)
    if step == "register":
        asked = {"task_runs": {"flow_run_id": {"any_": [flow_run]}, "state": {"type": {"any_": ["RUNNING"]}}}}
        return any(task["name"].startswith("register") for task in stack.ask("task_runs/filter", asked))
    return any(not key.endswith("job.json") for key in keys(stack, SIGNS_OF_WORK[step]))


def ended(stack: Stack, flow_run: str, seconds: float = 900) -> str:
    """The name of its last state."""

    def is_final() -> bool:
        with suppress(OSError):  # a server that is coming up
            return state_of(stack, flow_run)["type"] in FINAL
        return False

    wait_for(f"the end of {flow_run}", is_final, seconds)
    return str(state_of(stack, flow_run)["name"])


@pytest.mark.parametrize("step", list(SIGNS_OF_WORK))
def test_cancelled_in_a_step_everything_is_gone_within_30_seconds(stack: Stack, step: str) -> None:
    assert not is_committed(stack, step)
    flow_run = start_retrain(stack)
    wait_for(f"work of {step}", lambda: is_at_work(stack, step, flow_run), 600)
    asked_at = time.monotonic()
    stack.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for("the end of all its processes", lambda: not processes_of(flow_run), 30)
    print(f"\n{step}: gone after {time.monotonic() - asked_at:.1f} s")
    # The flow run may say that it crashed, before Prefect's worker says that it was cancelled.
    wait_for("its state", lambda: state_of(stack, flow_run)["name"] == "Cancelled", 60)


def processes_named(flow_run: str, name: str) -> list[psutil.Process]:
    found = []
    for process in processes_of(flow_run):
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def part(stack: Stack, name: str) -> psutil.Process:
    now = frostline(stack.environment, "up", *stack.ports, "--json")
    return psutil.Process(next(each["pid"] for each in now["parts"] if each["name"] == name))


CHANGED = "training.learning_rate=0.002"
"""Another training, from the data that is there."""


@pytest.mark.parametrize("victim", ["worker", "prefect", "flow process", "rank", "Ray head"])
def test_killed_once_each_during_a_training_a_retrain_completes_after_up(stack: Stack, victim: str) -> None:
    """The flow run itself goes on where it can; where it cannot, the next one does."""
    assignments = (CHANGED, f"training.seed={['worker', 'prefect', 'flow process', 'rank', 'Ray head'].index(victim)}")
    before = set(keys(stack, "train/checkpoints/"))
    flow_run = start_retrain(stack, *assignments)
    wait_for("a checkpoint", lambda: set(keys(stack, "train/checkpoints/")) - before, 600)
    if victim in ("worker", "prefect"):
        part(stack, victim).kill()
    else:
        name = {"flow process": "prefect.engine", "rank": "RayTrainWorker", "Ray head": "gcs_server"}[victim]
        processes_named(flow_run, name)[0].kill()
    frostline(stack.environment, "up", *stack.ports, "--json")
    first = ended(stack, flow_run)
    second = first if first == "Completed" else ended(stack, start_retrain(stack, *assignments))
    print(f"\n{victim}: the flow run ended as {first}, the next one as {second}")
    assert second == "Completed"
    wait_for("the end of what it started", lambda: not processes_of(flow_run), 60)
    assert_everything_is_there_once(stack)


def test_a_flow_run_that_was_killed_with_its_worker_is_marked_as_crashed_and_up_brings_the_worker_back(
    stack: Stack,
) -> None:
    before = set(keys(stack, "train/checkpoints/"))
    flow_run = start_retrain(stack, CHANGED, "training.seed=5")
    wait_for("a checkpoint", lambda: set(keys(stack, "train/checkpoints/")) - before, 600)
    worker = part(stack, "worker")
    for process in (worker, processes_named(flow_run, "prefect.engine")[0]):
        process.kill()
    wait_for("the reaper", lambda: state_of(stack, flow_run)["name"] == "Crashed", 60)
    assert "nothing was heard any more of retrain of tiny on " in state_of(stack, flow_run)["message"]
    wait_for("the end of what it started", lambda: not processes_of(flow_run), 30)
    again = frostline(stack.environment, "up", *stack.ports, "--json")
    assert {part["name"]: part["was_there"] for part in again["parts"]} == {
        "prefect": True, "mlflow": True, "worker": False, "reaper": True,
    }  # fmt: skip


def assert_everything_is_there_once(stack: Stack) -> None:
    """No version and no entry of the ledger twice, nothing damaged. (One training was cancelled before `register`.)"""
    with urlopen(f"{stack.mlflow_uri}/api/2.0/mlflow/model-versions/search?max_results=100", timeout=20) as answer:
        versions = json.load(answer)["model_versions"]
    digests = [tag["value"] for version in versions for tag in version["tags"] if tag["key"] == "model_digest"]
    trained = [manifest.identity["model_digest"] for manifest in manifests(stack, "train")]
    assert len(digests) == len(set(digests)) and set(digests) <= set(trained)
    entries = frostline(stack.environment, "history", "tiny", "--json")["entries"]
    promoted = [entry["model_digest"] for entry in entries]
    assert len(promoted) == len(set(promoted))
    assert frostline(stack.environment, "verify", "--json")["damaged"] == []
    (features,) = {manifest.counts["rows_out"] for manifest in manifests(stack, "featurize")}
    assert features == 600


def manifests(stack: Stack, step: str) -> list[Manifest]:
    from stack import BUCKET, s3_client

    client = s3_client(stack.environment)
    found = [key for key in keys(stack, f"{step}/") if key.endswith("/manifest.json") and key.count("/") == 2]
    bodies = (client.get_object(Bucket=BUCKET, Key=f"team/{key}")["Body"].read() for key in found)
    return [Manifest.model_validate_json(body) for body in bodies]


def test_20_times_two_at_once_never_interleave_and_register_once(stack: Stack) -> None:
    """Of each pair one registers and the other finds it registered."""
    for number in range(NUM_ROUNDS):
        rule = f"promotion.minimum_gain={0.001 * (number + 1):.3f}"
        before = len(manifests(stack, "register"))
        with ThreadPoolExecutor(2) as pool:
            pair = list(pool.map(lambda _, rule=rule: start_retrain(stack, CHANGED, rule), range(2)))
        assert [ended(stack, flow_run) for flow_run in pair] == ["Completed", "Completed"]
        assert len(manifests(stack, "register")) == before + 1
        states = [registered(stack, flow_run) for flow_run in pair]
        assert sorted(states) == ["Cached", "Completed"], states
        first, second = sorted((spans(stack, flow_run) for flow_run in pair), key=lambda span: span[0])
        assert first[1] <= second[0], "the second began its steps before the first had ended them"
    assert_everything_is_there_once(stack)


def steps_of(stack: Stack, flow_run: str) -> list[dict[str, Any]]:
    return list(stack.ask("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_run]}}}))


def registered(stack: Stack, flow_run: str) -> str:
    (task,) = (each for each in steps_of(stack, flow_run) if each["name"].startswith("register"))
    return str(task["state_name"])


def spans(stack: Stack, flow_run: str) -> tuple[str, str]:
    """When its first step began and its last ended."""
    tasks = steps_of(stack, flow_run)
    return min(task["start_time"] for task in tasks), max(task["end_time"] for task in tasks)


def test_on_sqlite_a_deployment_trains_to_a_champion(tmp_path: Path) -> None:
    with brought_up(tmp_path, "SQLite") as stack:
        run = ["deployment", "run", "retrain/scheduled", "--param", f"recipe={TINY}", "--watch"]
        done = stack.prefect(*run, "--watch-timeout", "900")
        assert done.returncode == 0, done.stdout + done.stderr
        assert frostline(stack.environment, "history", "tiny", "--json")["aliases"] == {"champion": "1"}
        assert (tmp_path / "var" / "prefect").is_dir()


def test_two_with_one_idempotency_key_are_one(stack: Stack) -> None:
    ids = {start_retrain(stack, CHANGED, idempotency_key="monday") for _ in range(2)}
    assert len(ids) == 1
    assert ended(stack, ids.pop()) == "Completed"


def test_with_mlflow_away_data_work_goes_on_and_registration_converges_when_it_is_back(stack: Stack) -> None:
    """It is stopped until the training is done, which reports to it; then it comes back, and nothing is doubled."""
    mlflow = part(stack, "mlflow")
    family = [mlflow, *mlflow.children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        flow_run = start_retrain(stack, CHANGED, "ingest.sources.0.num_images=620", "training.seed=9")
        before = len(manifests(stack, "featurize"))
        wait_for("features", lambda: len(manifests(stack, "featurize")) > before, 600)
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)
    first = ended(stack, flow_run)
    assignments = (CHANGED, "ingest.sources.0.num_images=620", "training.seed=9")
    second = first if first == "Completed" else ended(stack, start_retrain(stack, *assignments))
    print(f"\nthe flow run ended as {first}, the next one as {second}")
    assert second == "Completed"
