"""SIGKILL before, within and after every durable action of ingest and featurize, then the same command once more.

The points are those that an undisturbed process passes, so the matrix has no gaps. Shown to fail, by one change each:
`masked` and `files` parts uploaded after the manifest: a reader misses them; a shard noted before its upload: its note
stands without its parts, and without `holds` too the restart fails; exists-then-write in place of `os.link`: a torn
manifest; `Journal.begun` that finds nothing: images of noted shards are read again; `log_commit` before `create`, or
not where an output is found: the log names what is not there, or lacks it; `featurize` that does not note a unit, or
does not ask for notes: it is encoded again.
"""

import shutil
from collections import Counter
from collections.abc import Sequence

import pyarrow.parquet as pq
import pytest
from crash_points import Point
from fault_cases import Case, check_all

from infra.outputs import Part
from infra.store import LocalStore

KILLED = -9


def check(case: Case, point: Point) -> tuple[list[list[Part]], list[str], list[str]]:
    """Kill at the point, look, and start again: (noted units, what the killed one read, what the next one did)."""
    folder = case.folder / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    assert case.run(folder, "killed", FAULT_AT=str(point)) == KILLED, "the point was not passed"
    store = LocalStore(folder / "store")
    assert case.outputs(store) in (case.before, case.after), "a reader sees neither the old nor the new state"
    noted, killed = case.noted(store), case.read("killed")
    case.check_finished(folder, "resumed")
    return noted, killed, case.read("resumed")


def some(points: Sequence[Point]) -> list[Point]:
    """Of each action the first before and the last after, and of the manifest's every one."""
    chosen: dict[Point, None] = {}
    for action in dict.fromkeys(point.action for point in points):
        those = [point for point in points if point.action == action]
        chosen[next(point for point in those if point.side == "before")] = None
        chosen[next(point for point in reversed(those) if point.side == "after")] = None
        chosen |= dict.fromkeys(those if action == "manifest create" else ())
    return list(chosen)


def check_ingest(case: Case, point: Point) -> None:
    """No image of a noted shard is read again, and at most a shard and the reading window beyond it are."""
    noted, killed, resumed = check(case, point)
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


def check_featurize(case: Case, point: Point) -> None:
    """No noted unit is encoded again, and at most the one that was begun is."""
    noted, killed, resumed = check(case, point)
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
