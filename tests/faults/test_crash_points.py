"""SIGKILL before and after every write of an output: a reader sees all of it or nothing, and the next attempt goes on
from what was noted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crash_points import armed, was_hit

from infra import log
from infra.outputs import OutputRequest, find_output
from infra.store import LocalStore
from infra.verify import verify_store

NUM_UNITS = 3
REQUEST = OutputRequest("toy", 1, "demo", {"units": NUM_UNITS}, {})
WRITER = """
import sys
from pathlib import Path
from infra.outputs import Draft, OutputRequest, Part, ensure_output
from infra.store import open_store

def produce(attempt):
    parts = []
    for unit in range(3):
        noted = attempt.noted(f"unit-{unit}")
        if noted is None or not attempt.holds(Part.model_validate(noted)):
            path = Path(sys.argv[2]) / "part"
            path.write_bytes(bytes([unit]) * 1000)
            noted = attempt.add_part(path, "file", 1, name=f"{unit}.bin").model_dump()
            attempt.note(f"unit-{unit}", noted)
            print("made", unit, flush=True)
        parts.append(noted)
    return Draft(parts=parts, identity={})

ensure_output(open_store(sys.argv[1]), OutputRequest("toy", 1, "demo", {"units": 3}, {}), produce, {})
"""
COUNTS = {"upload": NUM_UNITS, "note": NUM_UNITS, "manifest": 1, "log": 1, "delete": 2}
POINTS = [
    f"{when} {operation} {number}"
    for operation, count in COUNTS.items()
    for number in range(1, count + 1)
    for when in ("before", "after")
]

pytestmark = pytest.mark.slow


def run(store: LocalStore, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITER, store.uri, str(folder)]
    repository = Path(__file__).resolve().parents[2]
    return subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, timeout=60)


def noted_before(point: str) -> int:
    """How many units need not be made again."""
    when, operation, number = point.split()
    if operation in ("upload", "note"):
        return int(number) - (0 if (when, operation) == ("after", "note") else 1)
    return NUM_UNITS


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_at_any_point_leaves_all_or_nothing(point: str, store: LocalStore, tmp_path: Path) -> None:
    """Shown to fail by deleting the journal before the commit, and by not entering an output into its log where its
    writer died before it did."""
    killed = run(store, tmp_path, armed(tmp_path / "crash", point))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert was_hit(tmp_path / "crash", point)
    report = verify_store(store)
    assert report.damaged == []
    visible = find_output(store, REQUEST) is not None
    assert visible == (point in ("after manifest 1", "before log 1", "after log 1") or "delete" in point)

    again = run(store, tmp_path, dict(os.environ))
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("made") == NUM_UNITS - noted_before(point)
    manifest = find_output(store, REQUEST)
    assert manifest is not None
    assert [part.name for part in manifest.parts] == [f"{unit}.bin" for unit in range(NUM_UNITS)]
    assert verify_store(store).damaged == []
    assert [entry["fingerprint"] for entry in log.entries(store, "toy", "demo")] == [REQUEST.fingerprint]
    assert len(store.list("toy/parts")) == NUM_UNITS
