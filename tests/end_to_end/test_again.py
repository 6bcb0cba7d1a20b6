"""A recipe run twice, then with one field changed: what is reused, what runs, and that `plan` had said so."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = str(REPOSITORY / "tests" / "recipes" / "tiny.yaml")
FROSTLINE = str(Path(sys.executable).parent / "frostline")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny recipe has run once."""
    folder = tmp_path_factory.mktemp("again")
    frostline(folder, "run", TINY, "--json")
    return folder


def frostline(var: Path, *arguments: str) -> Any:
    environment = {**os.environ, "FROSTLINE_VAR_DIR": str(var)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run([FROSTLINE, *arguments], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_the_second_run_reuses_every_step_writes_nothing_and_starts_no_engine(var: Path) -> None:
    before = everything_in(var)
    again = frostline(var, "run", TINY, "--json")
    assert all(step["reused"] for step in again["steps"])
    assert everything_in(var) == before
    plan = frostline(var, "plan", TINY, "--json")
    assert {step["action"] for step in plan["steps"]} == {"reuse"}


def test_everything_committed_verifies_and_one_flipped_bit_is_named(var: Path) -> None:
    report = frostline(var, "verify", "--json")
    assert report["damaged"] == []
    assert report["num_outputs"] == 6
    part = next(path for path in sorted((var / "store" / "featurize" / "parts").iterdir()))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    try:
        environment = {**os.environ, "FROSTLINE_VAR_DIR": str(var)}
        done = subprocess.run([FROSTLINE, "verify"], env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 4
        assert part.name in done.stdout
    finally:
        data[len(data) // 2] ^= 1
        part.write_bytes(data)


def test_another_learning_rate_reuses_the_data_and_trains_again_as_the_plan_said(var: Path) -> None:
    change = ("--set", "training.learning_rate=0.002")
    plan = {step["name"]: step for step in frostline(var, "plan", TINY, "--json", *change)["steps"]}
    assert plan["train"]["action"] == "run"
    assert plan["train"]["changed"] == ["training.learning_rate"]
    assert "0.001 → 0.002" in plan["train"]["reason"]

    ran = frostline(var, "run", TINY, "--json", *change)
    reused = {step["name"]: step["reused"] for step in ran["steps"]}
    assert reused == {
        "ingest": True, "base": True, "featurize": True, "train": False, "evaluate": False, "register": False,
    }  # fmt: skip
    assert {name for name, step in plan.items() if step["action"] == "reuse"} == {n for n, r in reused.items() if r}
    assert ran["model"]["version"] == "2"

    status = frostline(var, "status", "--json")
    (model,) = status["models"]
    assert [version["version"] for version in model["versions"]] == ["1", "2"]


def test_the_registered_model_answers_on_the_command_line(var: Path) -> None:
    from data_prep.sources.digit_scenes import DigitScenes, DigitScenesConfig

    row = next(DigitScenes(DigitScenesConfig(kind="digit_scenes", num_images=1)).rows())
    picture = var / "scene.png"
    picture.write_bytes(row.image())
    (caption,) = frostline(var, "caption", "models:/tiny@champion", str(picture), "--json")
    assert set(caption) == {"image", "caption"}
    answer = frostline(var, "ask", "models:/tiny@champion", str(picture), "how many digits are there?", "--json")
    assert set(answer) == {"image", "question", "answer"}
