"""SIGKILL before, within and after every durable action of a checkpoint's commit and of the deletion of an old one.

The points are those that an undisturbed process passes, so the matrix has no gaps.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_program import PREFIX, folder_in, save, tensors_of
from crash_points import Point, recorded
from forge import Forge

KILLED = -9


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge("checkpoint_program") as forge:
        yield forge


def newest_step(store_dir: Path) -> int:
    """Of what a training would go on from; all of it has to be what was saved."""
    found, skipped = folder_in(store_dir).newest()
    assert found is not None and not skipped, "a torn checkpoint is none, so there is nothing to be told of"
    assert found.state == {"global_step": found.step}
    for file, named in tensors_of(found.step).items():
        assert found.tensors[file].keys() == named.keys()
        assert all(torch.equal(found.tensors[file][name], value) for name, value in named.items())
    return found.step


@pytest.fixture(scope="module")
def points(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert forge.run("save", str(folder / "store"), 10, 20) == 0
    record = folder / "points"
    assert forge.run("save", str(folder / "store"), 30, FAULT_RECORD=str(record)) == 0
    found = recorded(record)
    passed = {str(point).partition("|")[2].rpartition("|")[0] for point in found if point.side == "after"}
    assert len([name for name in passed if "checkpoint file" in name]) == 3, "parameters, moments and state"
    assert any("manifest create" in name for name in passed) and any("delete" in name for name in passed)
    return found


def check(forge: Forge, points: list[Point], folder: Path) -> None:
    before, killed = folder / "before", folder / "killed"
    save(str(before), 10, 20)
    newest = []
    for point in points:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(before, killed)
        assert forge.run("save", str(killed), 30, FAULT_AT=str(point)) == KILLED, point
        newest.append(newest_step(killed))
        save(str(killed), 30)
        assert newest_step(killed) == 30, point
        assert {key.split("/")[-2] for key in folder_in(killed).store.list(PREFIX)} == {"00000020", "00000030"}, point
    assert newest == sorted(newest) and set(newest) == {20, 30}


@pytest.mark.slow
def test_a_save_killed_at_any_action_leaves_the_earlier_checkpoint_and_is_replaced(
    forge: Forge, points: list[Point], tmp_path: Path
) -> None:
    sides = [point for point in points if point.side == "after" or point.action == "manifest create"]
    check(forge, sides, tmp_path)


@pytest.mark.faults
def test_a_save_killed_at_every_point_leaves_the_earlier_checkpoint_and_is_replaced(
    forge: Forge, points: list[Point], tmp_path: Path
) -> None:
    check(forge, points, tmp_path)
