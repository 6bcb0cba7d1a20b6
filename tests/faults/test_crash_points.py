"""SIGKILL before, within and after every durable action of ingest and featurize, then the same command once more.

The points are those that an undisturbed process passes, so the matrix has no gaps. Shown to fail, each by one change:
a manifest created before the shards are read (`ensure_output`): a reader sees an output that lacks parts; a shard noted
before its upload without `holds`: the restart names a missing part; `create` by exists-then-write in place of
`os.link`: a torn manifest; no `noted` in `Journal.begun`: images of finished shards are read again.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from crash_points import Point, recorded
from feeds import earlier_feeds, later_feeds
from forge import Forge
from stored_parts import noise, store_images
from tiny_towers import save_tower

from infra import log
from infra.outputs import Manifest, OutputRequest, Part, commit
from infra.store import LocalStore
from infra.verify import manifests, verify_store

KILLED = -9


@dataclass
class Case:
    """One command, the store it starts from, and what an undisturbed run of it makes."""

    forge: Forge
    arguments: Sequence[Any]
    start: Path
    folder: Path
    step: str

    def __post_init__(self) -> None:
        record = self.folder / "points"
        assert self.run(self.folder / "undisturbed", "expected", FAULT_RECORD=str(record)) == 0
        self.expected = self.answer("expected")
        self.units = self.read("expected")
        self.points = [point for point in recorded(record) if not point.call.endswith((".json", ".read"))]
        assert not [point for point in self.points if point.action == "unnamed"], "a durable action without a name"
        self.before = self.outputs(LocalStore(self.start / "store"))

    def run(self, folder: Path, answer: str, **environment: str) -> int:
        if not folder.exists():
            shutil.copytree(self.start, folder)
        return self.forge.run("run", str(folder), *self.arguments, str(self.folder / answer), **environment)

    def answer(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return found

    def read(self, name: str) -> list[str]:
        """What it read: an image, or the images of a unit."""
        return (self.folder / f"{name}.read").read_text().split()

    def outputs(self, store: LocalStore) -> dict[str, Any]:
        """Every output a reader sees. Nothing of it is missing or damaged."""
        assert verify_store(store).damaged == []
        found = {key: manifest for key, manifest in manifests(store) if isinstance(manifest, Manifest)}
        for entry in log.entries(store, self.step, "demo"):
            assert f"{self.step}/{entry['fingerprint']}/manifest.json" in found, "a commit is logged before it is made"
        return {key: manifest.draft.model_dump(mode="json") for key, manifest in found.items()}

    def noted(self, store: LocalStore) -> list[list[Part]]:
        """Parts of each unit that is noted as done; they are there."""
        found: list[list[Part]] = []
        for key in store.list(f"{self.step}/journal"):
            parts = [Part.model_validate(part) for part in json.loads(store.read(key) or b"")["value"]["parts"]]
            assert all(store.exists(f"{self.step}/parts/{part.digest}") for part in parts), "noted before it was stored"
            found.append(parts)
        return found

    def check(self, point: Point) -> tuple[list[list[Part]], list[str], list[str]]:
        """Kill at the point, look, and start again: (noted units, what the killed one read, what the next one did)."""
        folder = self.folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        assert self.run(folder, "killed", FAULT_AT=str(point)) == KILLED, "the point was not passed"
        store = LocalStore(folder / "store")
        new = f"{self.step}/{self.expected['fingerprint']}/manifest.json"
        expected = {**self.before, new: self.expected["draft"]}
        assert self.outputs(store) in (self.before, expected), "a reader sees neither the old nor the new state"
        noted, killed = self.noted(store), self.read("killed")
        assert self.run(folder, "resumed") == 0
        assert self.answer("resumed") == self.expected
        assert self.outputs(store) == expected
        newest = [entry["fingerprint"] for entry in log.entries(store, self.step, "demo")]
        assert newest.count(self.expected["fingerprint"]) == 1
        assert newest[-1] == self.expected["fingerprint"]
        return noted, killed, self.read("resumed")


def check_all(case: Case, points: Sequence[Point], check: Callable[[Case, Point], None]) -> None:
    for point in points:
        try:
            check(case, point)
        except AssertionError as error:
            raise AssertionError(f"{point}: {error}") from error


def some(points: Sequence[Point]) -> list[Point]:
    """Of each action the first before and the last after, and of the manifest's every one."""
    chosen: dict[Point, None] = {}
    for action in dict.fromkeys(point.action for point in points):
        those = [point for point in points if point.action == action]
        chosen[next(point for point in those if point.side == "before")] = None
        chosen[next(point for point in reversed(those) if point.side == "after")] = None
        chosen |= dict.fromkeys(those if action == "manifest create" else ())
    return list(chosen)


@pytest.fixture(scope="module")
def ingest_forge() -> Iterator[Forge]:
    with Forge("ingest_program") as forge:
        yield forge


@pytest.fixture(scope="module")
def continued(ingest_forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """An ingest that continues an earlier dataset: shards lose rows, and four are new."""
    folder = tmp_path_factory.mktemp("ingest")
    assert ingest_forge.run("run", str(folder / "start"), earlier_feeds(folder), str(folder / "earlier")) == 0
    shutil.rmtree(folder / "start" / "cache")
    case = Case(ingest_forge, [later_feeds(folder)], folder / "start", folder, "ingest")
    counts = case.expected["draft"]["counts"]
    assert (counts["rows_in"], counts["duplicates"], counts["quarantined"], counts["images"]) == (27, 6, 4, 13)
    assert {"upload part", "journal note", "manifest create", "log append", "journal delete"} <= {
        point.action for point in case.points
    }
    return case


def check_ingest(case: Case, point: Point) -> None:
    """No image of a noted shard is read again, and at most a shard and the reading window beyond it are."""
    noted, killed, resumed = case.check(point)
    stored = case.folder / "killed" / "store" / "ingest" / "parts"
    indexes = [stored / part.digest for parts in noted for part in parts if part.kind == "image_index"]
    done = {image_id for path in indexes for image_id in pq.read_table(path).column("image_id").to_pylist()}
    elsewhere = Counter(case.units) - Counter(done)  # at a second place it is read again: nobody knows what is there
    assert all(resumed.count(image_id) <= elsewhere[image_id] for image_id in done), "a noted image was read again"
    assert len(killed) + len(resumed) - len(case.units) <= 3 * 3, "more than a shard, a window and a batch again"
    assert set(killed) | set(resumed) == set(case.units)


@pytest.mark.slow
def test_an_ingest_killed_at_any_point_starts_again_and_ends_as_if_undisturbed(continued: Case) -> None:
    check_all(continued, some(continued.points), check_ingest)


@pytest.mark.faults
def test_an_ingest_killed_at_every_point_starts_again_and_ends_as_if_undisturbed(continued: Case) -> None:
    check_all(continued, continued.points, check_ingest)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("tower")
    save_tower("vit", folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def featurize_forge(tower: Path) -> Iterator[Forge]:
    with Forge("featurize_program", str(tower)) as forge:
        yield forge


def store_dataset(store: LocalStore, shards: Sequence[Sequence[int]]) -> str:
    """Committed like one of ingest; its key."""
    made = store_images(store, [[noise(number) for number in shard] for shard in shards])
    request = OutputRequest(made.step, made.step_version, made.name, made.config, made.inputs)
    commit(store, request, made)
    return request.manifest_key


@pytest.fixture(scope="module")
def grown(featurize_forge: Forge, tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A featurize of three image parts, of which one is settled, one new and one known in part."""
    folder = tmp_path_factory.mktemp("featurize")
    store = LocalStore(folder / "start" / "store")
    first = store_dataset(store, [[0, 1, 2], [3]])
    assert featurize_forge.run("run", str(folder / "start"), first, str(tower), str(folder / "earlier")) == 0
    shutil.rmtree(folder / "start" / "cache")
    second = store_dataset(store, [[0, 1, 2], [3, 4, 5], [6, 7]])
    case = Case(featurize_forge, [second, str(tower)], folder / "start", folder, "featurize")
    assert case.expected["draft"]["counts"] == {"rows_out": 8, "encoded": 4, "reused": 4}
    return case


def check_featurize(case: Case, point: Point) -> None:
    """No noted unit is encoded again, and at most the one that was begun is."""
    noted, killed, resumed = case.check(point)
    done = {part.facts["image_part"] for parts in noted for part in parts if part.kind == "features"}
    assert not done & set(resumed), "a noted unit was encoded again"
    assert len(killed) + len(resumed) - len(case.units) <= 1
    assert set(killed) | set(resumed) == set(case.units)


@pytest.mark.slow
def test_a_featurize_killed_at_any_point_starts_again_and_ends_as_if_undisturbed(grown: Case) -> None:
    check_all(grown, some(grown.points), check_featurize)


@pytest.mark.faults
def test_a_featurize_killed_at_every_point_starts_again_and_ends_as_if_undisturbed(grown: Case) -> None:
    check_all(grown, grown.points, check_featurize)
