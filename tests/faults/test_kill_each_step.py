"""SIGKILL of the whole process group once in each step, then the same command to its end."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import FROSTLINE, TINY, TinyRun, environment_of

from infra.outputs import Manifest

SIGNS_OF_WORK = {
    "ingest": "ingest/journal/*/*-shard-00001.json",
    "base": "base/checkpoints/*/*/*/manifest.json",
    "featurize": "featurize/journal/*/*.json",
    "train": "train/checkpoints/*/*/manifest.json",
    "evaluate": "evaluate/journal/*/*.json",
    "register": "register/ledger/tiny/*.json",
}
"""What appears in the store once a step has done something, and before it is complete."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a start of the engines for each kill


def start(var: Path) -> subprocess.Popen[str]:
    command = [FROSTLINE, "run", TINY, "--json", "--debug"]
    return subprocess.Popen(
        command,
        env=environment_of(var),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(var: Path) -> dict[str, Any]:
    process = start(var)
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors[-3000:]
    found: dict[str, Any] = json.loads(output)
    return found


def kill_while_working(var: Path, step: str) -> None:
    """Start the command and SIGKILL its process group as soon as the step shows its first sign of work."""
    process = start(var)
    try:
        while not list((var / "store").glob(SIGNS_OF_WORK[step])):
            assert process.poll() is None, (
                f"{step}: the command ended before it was killed: {process.communicate()[1][-3000:]}"
            )
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not list((var / "store" / step).glob("*/manifest.json")), f"{step} was complete before it was killed"


def manifest(var: Path, step: str) -> Manifest:
    (path,) = (var / "store" / step).glob("*/manifest.json")
    return Manifest.model_validate_json(path.read_bytes())


def training_points(var: Path, fingerprint: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by metric, of the one MLflow run of this training."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{var.absolute()}/mlflow/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`frostline.fingerprint` = '{fingerprint}'")
    assert run.info.status == "FINISHED"
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(["train"], marks=pytest.mark.long, id="train"),
        pytest.param(list(SIGNS_OF_WORK), marks=pytest.mark.faults, id="every step"),
    ],
)
def test_killed_once_in_each_of_the_steps_it_ends_with_the_same_rows_and_the_same_bytes(
    steps: list[str], tiny_run: TinyRun, tmp_path: Path
) -> None:
    undisturbed, expected, killed = tiny_run.as_it_ended, tiny_run.found, tmp_path
    for step in list(SIGNS_OF_WORK)[: list(SIGNS_OF_WORK).index(steps[0])]:
        shutil.copytree(undisturbed / "store" / step, killed / "store" / step)  # what comes before, as it was made
    for step in steps:
        kill_while_working(killed, step)
    found = finish(killed)

    assert [step["rows"] for step in found["steps"]] == [step["rows"] for step in expected["steps"]]
    for step in ("ingest", "base", "featurize", "train"):
        ours = sorted((part.kind, part.name, part.digest) for part in manifest(killed, step).parts)
        theirs = sorted((part.kind, part.name, part.digest) for part in manifest(undisturbed, step).parts)
        assert ours == theirs, f"{step} made other bytes"
    assert manifest(killed, "featurize").counts["rows_out"] == 600
    assert (found["metrics"], found["control"]) == (expected["metrics"], expected["control"])
    assert found["model"]["digest"] == expected["model"]["digest"]
    assert found["model"]["version"] == "1"
    assert found["model"]["aliases"] == ["champion"]
    assert manifest(killed, "train").facts["resumed_from"], "the training started over"
    assert len(list((killed / "store" / "register" / "ledger").rglob("*.json"))) == 1

    trained = manifest(killed, "train")
    points = training_points(killed, trained.fingerprint)
    for name, curve in points.items():
        steps = [step for step, _ in curve]
        assert len(steps) == len(set(steps)), f"{name} has two points at one step"
    undisturbed_points = training_points(undisturbed, trained.fingerprint)
    assert {"loss", "val_loss", "grad_norm", "learning_rate"} <= points.keys() == undisturbed_points.keys()
    for name in ("loss", "val_loss", "grad_norm", "learning_rate"):
        assert points[name] == undisturbed_points[name], f"{name} differs from an undisturbed training's"
    assert points["loss"][-1][0] == trained.counts["global_steps"]
