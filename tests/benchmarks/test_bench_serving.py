"""`make bench-serving` in small: both servers answer what the version says, whatever the figures are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import TinyRun

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON_PATH = "tests/benchmarks/shared:tests/support"


@pytest.mark.faults
def test_both_servers_answer_what_the_version_says(tiny_run: TinyRun, tmp_path: Path) -> None:
    """The benchmark itself compares captions."""
    made = tmp_path / "tiny"
    shutil.copytree(tiny_run.as_it_ended, made / "var")
    (made / "found.json").write_text("{}")
    command = [sys.executable, "tests/benchmarks/serving/bench.py", "--quick"]
    command += ["--root", str(tmp_path), "--out", str(tmp_path / "serving.json")]
    environment = {**os.environ, "PYTHONPATH": f"{PYTHON_PATH}:{REPOSITORY}"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "serving.json").read_text())
    assert [set(result["sides"]) for result in found] == [{"frostline", "mlflow"}] * 9
