"""Sixteen processes make the same output at the same time, each with other bytes: one manifest, no mixture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import log
from infra.outputs import Manifest, OutputRequest, find_output
from infra.part_cache import PartCache
from infra.store import Store, open_store
from infra.verify import verify_store

NUM_WRITERS = 16
NUM_UNITS = 4
REPOSITORY = Path(__file__).resolve().parents[2]
REQUEST = OutputRequest("toy", 1, "demo", {}, {}, also_logged_as="key")
WRITER = """
import sys, time
from pathlib import Path
from infra.outputs import Draft, OutputRequest, ensure_output
from infra.store import open_store, probe

store_uri, folder, writer = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
store = open_store(store_uri)
probe(store)
(folder / f"ready-{writer}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)

def produce(attempt):
    parts = []
    for unit in range(4):
        path = folder / f"part-{writer}"
        path.write_text(f"{writer} {unit}")
        parts.append(attempt.add_part(path, "file", 1, name=str(unit)))
        attempt.note(f"unit-{unit}-{writer}", parts[-1].model_dump())
    return Draft(parts=parts, identity={"writer": writer})

request = OutputRequest("toy", 1, "demo", {}, {}, also_logged_as="key")
print(ensure_output(store, request, produce, {})[0].model_dump_json())
"""


def race(store_uri: str, folder: Path) -> list[Manifest]:
    """The manifest that each writer was given."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store_uri, str(folder), str(writer)],
            cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for writer in range(NUM_WRITERS)
    ]  # fmt: skip
    try:
        while len(list(folder.glob("ready-*"))) < NUM_WRITERS:
            assert all(writer.poll() is None for writer in writers), [w.communicate()[1][-500:] for w in writers]
        (folder / "go").touch()
        done = [writer.communicate(timeout=120) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    assert all(writer.returncode == 0 for writer in writers), [errors[-500:] for _, errors in done]
    return [Manifest.model_validate_json(output) for output, _ in done]


def check_one_output(store: Store, given: list[Manifest], folder: Path) -> None:
    first = find_output(store, REQUEST)
    assert first is not None
    assert given == [first] * NUM_WRITERS
    cache = PartCache(store, folder / "cache")
    held = [cache.path("toy", part).read_text() for part in first.parts]
    assert held == [f"{first.identity['writer']} {unit}" for unit in range(NUM_UNITS)]
    for name in ("demo", "key"):
        assert [entry["fingerprint"] for entry in log.entries(store, "toy", name)] == [REQUEST.fingerprint]
    assert verify_store(store).damaged == []


@pytest.mark.slow
def test_sixteen_processes_commit_one_output_on_disk(store: Store, tmp_path: Path) -> None:
    """A `create` that looks and then writes would let several win."""
    check_one_output(store, race(store.uri, tmp_path), tmp_path)


@pytest.mark.faults
def test_sixteen_processes_commit_one_output_on_s3(s3: str, tmp_path: Path) -> None:
    check_one_output(open_store(s3), race(s3, tmp_path), tmp_path)
