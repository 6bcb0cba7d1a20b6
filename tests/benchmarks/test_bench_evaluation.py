"""`make bench-evaluation` in small: its sides generate the same texts, whatever the figures are."""

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
def test_both_sides_generate_the_same_texts_and_a_second_evaluation_none(tmp_path: Path) -> None:
    """The benchmark itself compares texts, and counts what is generated."""
    command = [sys.executable, "tests/benchmarks/evaluation/bench.py", "--quick"]
    command += ["--root", str(tmp_path), "--out", str(tmp_path / "evaluation.json")]
    environment = {**os.environ, "PYTHONPATH": f"{PYTHON_PATH}:{REPOSITORY}"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [set(result["sides"]) for result in found] == [{"frostline", "generate"}] * 3 + [{"frostline"}]
    for result in found:
        assert result.keys() >= {"name", "value", "unit", "goal", "higher_is_better", "sides"}
        for side in result["sides"].values():
            assert side["runs"] and side["command"] and side["asked"] and side["versions"]["torch"]
