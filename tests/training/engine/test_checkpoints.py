from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import torch

from infra.store import LocalStore
from training import checkpoints as checkpoints_module
from training.checkpoints import CheckpointFolder


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(LocalStore(tmp_path), "train/checkpoints/abc", keep=3)
    for step in (10, 20):
        save(checkpoints, step)
    return checkpoints


def save(checkpoints: CheckpointFolder, step: int, protected: Collection[int] = ()) -> None:
    weights = {"mapper.b": torch.full((3,), float(step)), "mapper.a": torch.arange(4.0)}
    tensors = {"trainables": weights, "optimizer": {"x": torch.ones(2)}}
    checkpoints.save(step, tensors, {"global_step": step}, protected)


def newest_step(checkpoints: CheckpointFolder) -> int | None:
    found, _ = checkpoints.newest()
    return found and found.step


def test_the_newest_is_what_was_saved_last(folder: CheckpointFolder) -> None:
    found, skipped = folder.newest()
    assert found is not None and found.step == 20 and found.state == {"global_step": 20} and not skipped
    assert torch.equal(found.tensors["trainables"]["mapper.b"], torch.full((3,), 20.0))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, bit: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    bit = len(data) * 4 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def flip_first(path: Path) -> None:
    flip(path, 0)


def flip_last(path: Path) -> None:
    flip(path, path.stat().st_size * 8 - 1)


@pytest.mark.parametrize("damage", [shorten, halve, empty, flip, flip_first, flip_last, Path.unlink])
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


def test_no_bit_of_a_manifest_can_flip_unseen(folder: CheckpointFolder, tmp_path: Path) -> None:
    path = tmp_path / "train/checkpoints/abc/00000020/manifest.json"
    sound = path.read_bytes()
    for bit in range(len(sound) * 8):
        flip(path, bit)
        found, skipped = folder.newest()
        assert found is not None and found.step == 10 and len(skipped) == 1, bit
        path.write_bytes(sound)
    assert newest_step(folder) == 20


def test_a_writer_killed_before_the_manifest_leaves_the_older_one(folder: CheckpointFolder, tmp_path: Path) -> None:
    (tmp_path / "train/checkpoints/abc/00000030").mkdir()
    (tmp_path / "train/checkpoints/abc/00000030/trainables.safetensors").write_bytes(b"half")
    found, _ = folder.newest()
    assert found is not None and found.step == 20


def test_only_the_newest_and_the_protected_are_kept(folder: CheckpointFolder) -> None:
    for step in (30, 40, 50):
        save(folder, step)
    assert folder.steps() == [30, 40, 50]
    for step in (60, 70, 80):
        save(folder, step, protected={40})
    assert folder.steps() == [40, 60, 70, 80]
    save(folder, 90, protected={70})
    assert folder.steps() == [70, 80, 90]
    save(folder, 100)
    assert folder.steps() == [80, 90, 100]


def test_a_damaged_newer_checkpoint_does_not_take_the_place_of_a_sound_one(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    folder.keep = 2
    save(folder, 30)
    flip(tmp_path / "train/checkpoints/abc/00000030/optimizer.safetensors")
    save(folder, 25)
    assert newest_step(folder) == 25
    flip(tmp_path / "train/checkpoints/abc/00000025/optimizer.safetensors")
    assert newest_step(folder) == 20
    for step in (25, 30):
        save(folder, step)
    assert newest_step(folder) == 30 and folder.steps() == [25, 30]


def test_torn_checkpoints_go_when_newer_ones_are_committed(folder: CheckpointFolder, tmp_path: Path) -> None:
    for step in ("00000015", "00000045"):
        (tmp_path / "train/checkpoints/abc" / step).mkdir()
        (tmp_path / "train/checkpoints/abc" / step / "trainables.safetensors").write_bytes(b"half")
    save(folder, 30)
    left = sorted(path.name for path in (tmp_path / "train/checkpoints/abc").iterdir())
    assert left == ["00000010", "00000020", "00000030", "00000045"]


def test_nothing_sound_is_nothing(folder: CheckpointFolder, tmp_path: Path) -> None:
    for step in ("00000010", "00000020"):
        flip(tmp_path / "train/checkpoints/abc" / step / "trainables.safetensors")
    found, skipped = folder.newest()
    assert found is None and len(skipped) == 2


def test_a_large_state_is_written_in_pieces_and_read_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints_module, "PIECE_BYTES", 40)
    checkpoints = CheckpointFolder(LocalStore(tmp_path), "train/checkpoints/abc", keep=1)
    state = {name: torch.arange(float(size)) for name, size in (("a", 4), ("b", 6), ("c", 20), ("d", 1), ("e", 0))}
    checkpoints.save(1, {"optimizer": state, "export": {}}, {})
    names = {path.name: path.stat().st_size for path in (tmp_path / "train/checkpoints/abc/00000001").iterdir()}
    assert {"optimizer.safetensors", "optimizer.1.safetensors", "optimizer.2.safetensors"} <= names.keys()
    found = checkpoints.load(1).tensors
    assert found["optimizer"].keys() == state.keys() and found["export"] == {}
    assert all(torch.equal(found["optimizer"][name], tensor) for name, tensor in state.items())
