from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infra.store import LocalStore
from training.checkpoints import CheckpointFolder


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(LocalStore(tmp_path), "train/checkpoints/abc", keep=3)
    for step in (10, 20):
        save(checkpoints, step)
    return checkpoints


def save(checkpoints: CheckpointFolder, step: int) -> None:
    weights = {"mapper.b": torch.full((3,), float(step)), "mapper.a": torch.arange(4.0)}
    checkpoints.save(step, {"trainables": weights, "optimizer": {"x": torch.ones(2)}}, {"global_step": step})


def test_the_newest_is_what_was_saved_last(folder: CheckpointFolder) -> None:
    found, skipped = folder.newest()
    assert found is not None and found.step == 20 and found.state == {"global_step": 20} and not skipped
    assert torch.equal(found.tensors["trainables"]["mapper.b"], torch.full((3,), 20.0))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["trainables.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_skipped_with_a_message(
    name: str, damage: Callable[[Path], None], folder: CheckpointFolder, tmp_path: Path
) -> None:
    damage(tmp_path / "train/checkpoints/abc/00000020" / name)
    found, skipped = folder.newest()
    assert found is not None and found.step == 10
    if (name, damage) != ("manifest.json", Path.unlink):  # without its manifest it was never there
        assert len(skipped) == 1 and "skipped the checkpoint of step 20" in skipped[0]
    save(folder, 20)
    found, skipped = folder.newest()
    assert found is not None and found.step == 20 and not skipped


def test_a_writer_killed_before_the_manifest_leaves_the_older_one(folder: CheckpointFolder, tmp_path: Path) -> None:
    (tmp_path / "train/checkpoints/abc/00000030").mkdir()
    (tmp_path / "train/checkpoints/abc/00000030/trainables.safetensors").write_bytes(b"half")
    found, _ = folder.newest()
    assert found is not None and found.step == 20


def test_only_the_newest_are_kept(folder: CheckpointFolder) -> None:
    for step in (30, 40, 50):
        save(folder, step)
    assert folder.steps() == [30, 40, 50]


def test_nothing_sound_is_nothing(folder: CheckpointFolder, tmp_path: Path) -> None:
    for step in ("00000010", "00000020"):
        flip(tmp_path / "train/checkpoints/abc" / step / "trainables.safetensors")
    found, skipped = folder.newest()
    assert found is None and len(skipped) == 2
