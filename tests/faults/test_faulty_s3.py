"""Writers and readers of outputs on an S3 that fails: complete and right, or one clear error; never a wrong result."""

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_s3 import KINDS, faulty_s3

from infra import log
from infra.digests import digest_bytes
from infra.errors import PlatformError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output
from infra.part_cache import PartCache
from infra.store import Store, open_store
from infra.verify import verify_store

NUM_UNITS = 5
NUM_WRITERS = 3
INPUT = OutputRequest("source", 1, "demo", {"units": NUM_UNITS}, {})
REQUEST = OutputRequest("toy", 1, "demo", {"units": NUM_UNITS}, {"source": INPUT.fingerprint})

BOUNDED = [(0.05, 1), (0.2, 3)]
WHOLE = [(0.01, 10), (0.05, 20), (0.2, 60)]
"""(share of spoiled answers, number of seeds)"""


Outcome = Manifest | PlatformError


def content(unit: int) -> bytes:
    return random.Random(unit).randbytes(30_000)


def turned(data: bytes) -> bytes:
    return bytes(reversed(data))


@dataclass
class Turn:
    """A small real step: reads each unit of its input through the cache, writes it backwards, notes it."""

    source: Manifest
    cache: PartCache
    folder: Path

    def __call__(self, attempt: Attempt) -> Draft:
        parts = [self._unit(attempt, unit, part) for unit, part in enumerate(self.source.parts)]
        return Draft(parts=parts, identity={}, counts={"rows_out": len(parts)})

    def _unit(self, attempt: Attempt, unit: int, source: Part) -> Part:
        noted = attempt.noted(f"unit-{unit}")
        if noted is not None and attempt.holds(Part.model_validate(noted)):
            return Part.model_validate(noted)
        path = self.folder / f"unit-{unit}"
        path.write_bytes(turned(self.cache.path("source", source).read_bytes()))
        part = attempt.add_part(path, "file", 1, name=f"{unit}.bin")
        attempt.note(f"unit-{unit}", part.model_dump())
        return part


@dataclass
class Give:
    """The input of the step above."""

    folder: Path

    def __call__(self, attempt: Attempt) -> Draft:
        parts = []
        for unit in range(NUM_UNITS):
            path = self.folder / "unit"
            path.write_bytes(content(unit))
            parts.append(attempt.add_part(path, "file", 1, name=f"{unit}.bin"))
        return Draft(parts=parts, identity={})


def write_and_read(uri: str, folder: Path) -> Manifest:
    """One writer: its own connection, cache and temporary folder. Reads back what was committed."""
    folder.mkdir(parents=True)
    store = open_store(uri)
    cache = PartCache(store, folder / "cache")
    source, reused = ensure_output(store, INPUT, lambda _: pytest.fail("it was committed"), {})
    assert reused
    manifest, _ = ensure_output(store, REQUEST, Turn(source, cache, folder), {})
    for unit, part in enumerate(manifest.parts):
        assert cache.path("toy", part).read_bytes() == turned(content(unit))
    return manifest


def outcomes_of(uri: str, folder: Path) -> list[Outcome]:
    """What became of concurrent writers of one output. Any other error than the store's own is a failure."""

    def one(writer: int) -> Outcome:
        try:
            return write_and_read(uri, folder / str(writer))
        except PlatformError as error:
            assert "\n" not in str(error)
            return error

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        return list(pool.map(one, range(NUM_WRITERS)))


def check_stored(store: Store) -> None:
    """0 rows lost, 0 doubled, 0 silent corruption, seen without faults."""
    report = verify_store(store)
    assert (report.num_outputs, report.num_parts, report.damaged) == (2, 2 * NUM_UNITS, [])
    manifest, reused = ensure_output(store, REQUEST, lambda _: pytest.fail("it was committed"), {})
    assert reused
    assert [part.digest for part in manifest.parts] == [digest_bytes(turned(content(n))) for n in range(NUM_UNITS)]
    assert [entry["fingerprint"] for entry in log.entries(store, "toy", "demo")] == [REQUEST.fingerprint]
    assert len(store.list("toy/parts")) == NUM_UNITS


def outcomes_under_faults(uri: str, folder: Path, rate: float, seed: int) -> tuple[list[Outcome], Counter[str]]:
    """What became of the writers, whose result was checked without faults; and the faults by kind."""
    folder.mkdir()
    ensure_output(open_store(uri), INPUT, Give(folder), {})
    with faulty_s3(os.environ["AWS_ENDPOINT_URL"], rate, seed) as proxy, pytest.MonkeyPatch.context() as patch:
        proxy.silence_seconds = 0.8
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        outcomes = outcomes_of(uri, folder)
    if any(isinstance(outcome, Manifest) for outcome in outcomes):
        check_stored(open_store(uri))
    return outcomes, proxy.injected


def run_all(s3: str, folder: Path, plan: list[tuple[float, int]]) -> None:
    injected: Counter[str] = Counter()
    for rate, num_seeds in plan:
        outcomes: list[Outcome] = []
        for seed in range(num_seeds):
            name = f"{rate}-{seed}"
            found, spoiled = outcomes_under_faults(f"{s3}/{name}", folder / name, rate, seed)
            outcomes += found
            injected += spoiled
        failed = [outcome for outcome in outcomes if isinstance(outcome, PlatformError)]
        print(f"{rate:.0%} faults: {len(outcomes) - len(failed)} of {len(outcomes)} complete and right")
        assert len(failed) <= (0.01 if rate > 0.05 else 0) * len(outcomes), failed
    print(dict(injected))
    assert set(KINDS) <= injected.keys(), injected


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROSTLINE_S3_READ_TIMEOUT_SECONDS", "0.5")


@pytest.mark.slow
def test_writers_and_readers_come_through_a_faulty_s3(s3: str, tmp_path: Path) -> None:
    """Shown to fail by reading every object once only (`NUM_READS = 1`), by trying every action once only, and by
    log entries that differ from writer to writer."""
    run_all(s3, tmp_path, BOUNDED)


@pytest.mark.faults
def test_writers_and_readers_come_through_a_faulty_s3_many_times(s3: str, tmp_path: Path) -> None:
    run_all(s3, tmp_path, WHOLE)
