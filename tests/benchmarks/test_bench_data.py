"""`make bench-data` in small: every part of it works, whatever the figures are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_quick(only: str, folder: Path) -> dict[str, dict[str, object]]:
    command = [sys.executable, "tests/benchmarks/data/bench.py", "--quick", "--only", only]
    command += ["--root", str(folder), "--out", str(folder / "data.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
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


FEATURIZE = ["featurize, ViT-S, 2 cores", "featurize, MobileNetV2, 2 cores"]
MEMORY = ["peak memory of ingest", "peak memory of featurize"]
AGAIN = ["no-change featurize, 10 × images", "no-change featurize, 2 × shards"]
READING = [
    "features, first read with verification",
    "features, read from the cache",
    "features, random images: share of their parts read",
]


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("only", "names"), [("featurize", FEATURIZE), ("memory", MEMORY), ("again", AGAIN), ("reading", READING)]
)
def test_the_benchmark_measures_what_it_promises(
    only: str, names: list[str], shared_data: Path, tmp_path: Path
) -> None:
    """Sides that disagree about what they did (images encoded, images encoded again, bits) end it with an error: shown
    by forgetting all features before the second featurize."""
    found = run_quick(only, tmp_path)
    assert list(found) == names
    for result in found.values():
        assert_can_be_repeated(result)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not (REPOSITORY / ".venv-bench").is_dir(), reason="made by `make bench-data`")
def test_both_sides_of_the_comparison_of_ingest_find_the_same_truncated_files(
    shared_data: Path, tmp_path: Path
) -> None:
    """Shown by leaving `image.load()` out of the other side: it then finds none."""
    found = run_quick("ingest", tmp_path)
    assert list(found) == ["ingest, 2 cores"]
    assert_can_be_repeated(found["ingest, 2 cores"])
