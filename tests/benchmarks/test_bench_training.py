"""`make bench-training` in small: its sides do the same work, whatever the figures are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON_PATH = "tests/benchmarks/shared:tests/support"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.shared_data
def test_all_sides_train_the_same_tokens_to_the_same_loss(shared_data: Path, tmp_path: Path) -> None:
    """The benchmark itself compares losses and tokens of the Trainer, both bare loops and ours."""
    command = [sys.executable, "tests/benchmarks/training/bench.py", "--quick", "--only", "few-captions,loop"]
    command += ["--root", str(tmp_path), "--out", str(tmp_path / "training.json")]
    environment = {**os.environ, "PYTHONPATH": f"{PYTHON_PATH}:{REPOSITORY}"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "training.json").read_text())
    assert [set(result["sides"]) for result in found] == [
        {"frostline", "Trainer"},
        {"frostline", "bare loop"},
        {"frostline", "plain torch"},
    ]
    for result in found:
        assert result.keys() >= {"name", "value", "unit", "goal", "higher_is_better", "sides"}
        for side in result["sides"].values():
            assert side["runs"] and side["command"] and side["asked"] and side["versions"]["torch"]
