"""`make bench-data` in small: it works, whatever the figures are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_quick(only: str, folder: Path) -> dict[str, dict[str, object]]:
    command = [sys.executable, "tests/benchmarks/data/bench.py", "--quick", "--only", only]
    command += ["--root", str(folder), "--out", str(folder / "data.json")]
    environment = {**os.environ, "PYTHONPATH": f"tests/benchmarks/shared:{REPOSITORY}"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "data.json").read_text())
    assert all(result["name"] in done.stdout for result in found)
    return {result["name"]: result for result in found}


def assert_can_be_repeated(result: dict[str, object]) -> None:
    """The figures, and for each side what ran and with which versions."""
    assert result.keys() >= {"name", "value", "unit", "goal", "higher_is_better", "sides"}
    sides = result["sides"]
    assert isinstance(sides, dict)
    for side in sides.values():
        assert side["median"] >= 0
        assert side["runs"]
        assert side["command"]
        assert side["versions"]["python"]


READING = [
    "features, first read with verification",
    "features, read from the cache",
    "features, random images: share of their parts read",
]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.shared_data
def test_the_benchmark_measures_what_it_promises(shared_data: Path, tmp_path: Path) -> None:
    """Of its parts the one that starts no engine; `make bench-data` runs them all."""
    found = run_quick("reading", tmp_path)
    assert list(found) == READING
    for result in found.values():
        assert_can_be_repeated(result)
