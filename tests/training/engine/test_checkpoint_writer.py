import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.errors import PlatformError
from infra.store import LocalStore
from training.checkpoint_writer import CheckpointWriter
from training.checkpoints import CheckpointFolder

PREFIX = "train/checkpoints/abc"


class GatedStore(LocalStore):
    """Writes nothing until the gate opens, and notes what it writes; the disk can be full."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.full = False
        self.noted: list[str] = []

    def write(self, key: str, data: bytes) -> None:
        assert self.gate.wait(60)
        if self.full:
            raise PlatformError("the disk is full; expected space for a checkpoint. Free some.")
        self.noted.append(key.split("/", 3)[3])
        super().write(key, data)


@pytest.fixture
def store(tmp_path: Path) -> GatedStore:
    return GatedStore(tmp_path)


@pytest.fixture
def writer(store: GatedStore) -> CheckpointWriter:
    return CheckpointWriter(CheckpointFolder(store, PREFIX, keep=3))


def save(writer: CheckpointWriter, step: int, state: dict[str, Any] | None = None) -> None:
    writer.save(step, {"trainables": {"w": torch.full((2,), float(step))}}, state or {})


def test_a_save_returns_before_it_is_committed_and_holds_the_state_of_its_call(
    writer: CheckpointWriter, store: GatedStore
) -> None:
    curve = [[1, 0.5]]
    save(writer, 10, {"curve": curve})
    curve.append([2, 0.4])
    assert writer.folder.steps() == [] and store.noted == []
    store.gate.set()
    writer.wait()
    assert writer.folder.load(10).state == {"curve": [[1, 0.5]]}
    writer.close()


def test_the_next_save_waits_for_the_one_before(writer: CheckpointWriter, store: GatedStore) -> None:
    save(writer, 10)
    begun = threading.Event()
    returned_after: list[list[int]] = []

    def save_another() -> None:
        begun.set()
        save(writer, 20)
        returned_after.append(writer.folder.steps())

    thread = threading.Thread(target=save_another)
    thread.start()
    assert begun.wait(60)
    assert returned_after == [] and store.noted == []
    store.gate.set()
    thread.join(60)
    writer.wait()
    assert 10 in returned_after[0], "returned before the first was committed"
    assert store.noted == [
        f"000000{step}/{name}" for step in (10, 20) for name in ("trainables.safetensors", "state.json")
    ]
    assert writer.folder.steps() == [10, 20]
    writer.close()


@pytest.mark.parametrize("how", ["save", "wait"])
def test_what_a_save_raised_is_raised_once_by_the_next_call(
    how: str, writer: CheckpointWriter, store: GatedStore
) -> None:
    store.full = True
    store.gate.set()
    save(writer, 10)
    with pytest.raises(PlatformError, match="disk is full"):
        save(writer, 20) if how == "save" else writer.wait()
    store.full = False
    save(writer, 30)
    writer.wait()
    assert writer.folder.steps() == [30]
    writer.close()


def test_closing_ends_what_is_under_way_and_leaves_no_thread(writer: CheckpointWriter, store: GatedStore) -> None:
    save(writer, 10)
    store.gate.set()
    writer.close()
    assert writer.folder.steps() == [10]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
