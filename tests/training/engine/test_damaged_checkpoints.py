"""A checkpoint's file is lost, cut or changed while nobody trains; then the training goes on, on one rank here.

Shown to fail where `CheckpointFolder.load` does not compare digests: see the tests.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ranks import final, folder_of
from watching import Watching

from infra.errors import Interrupted
from training.checkpoints import Checkpoint
from training.job import TrainJob
from training.loop import run_rank

FILES = ["trainables.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
MAPPER = {"kind": "mlp", "prefix_tokens": 2, "width": 16, "dropout": 0.1}
REGIME = {"kind": "lora", "rank": 2, "dropout": 0.2, "learning_rate": 1e-2, "mapper_first_fraction": 0.5}
CONFIG = {"mapper": MAPPER, "regime": REGIME, "checkpoint_every_steps": 3}
STOPPED = 8
"""Of 12 global steps; checkpoints are of the sixth and of this one."""


@dataclass
class Damaged:
    """A job whose checkpoints can be put back as they were left."""

    job: TrainJob
    left: Path
    expected: Checkpoint

    def checkpoints(self) -> Path:
        """Fresh copies, by step."""
        store = folder_of(self.job).store
        folder = Path(store.uri.removeprefix("file://")) / folder_of(self.job).prefix
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.left, folder)
        return folder

    def check(self, resumed_from: list[int], told: list[str]) -> None:
        """It goes on from there, says so, and ends as if nothing had been."""
        run_rank(self.job, Watching())
        found = final(self.job)
        assert found.state["resumed_from"] == resumed_from
        assert len(found.state["messages"]) == len(told)
        for message, beginning in zip(found.state["messages"], told, strict=True):
            assert beginning in message and "expected" in message
        assert found.tensors.keys() == self.expected.tensors.keys()
        for file, tensors in self.expected.tensors.items():
            assert all(torch.equal(value, found.tensors[file][name]) for name, value in tensors.items()), file


@pytest.fixture(scope="module")
def stopped(one_rank: None, tmp_path_factory: pytest.TempPathFactory, make_job: Callable[..., TrainJob]) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")
    undisturbed, job = (make_job(folder / name, CONFIG, {"zero_stage": 0}) for name in ("undisturbed", "job"))
    run_rank(undisturbed, Watching())
    with pytest.raises(Interrupted):
        run_rank(job, Watching(STOPPED))
    assert folder_of(job).steps() == [6, STOPPED]
    left = folder / "left"
    (manifest,) = (folder / "job" / "store").rglob(f"{STOPPED:08d}/manifest.json")
    shutil.copytree(manifest.parents[1], left)
    return Damaged(job, left, final(undisturbed))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    name: str, damage: Callable[[Path], None], stopped: Damaged
) -> None:
    path = stopped.checkpoints() / f"{STOPPED:08d}" / name
    damage(path)
    # Without its manifest a checkpoint was never there.
    told = [] if (name, damage) == ("manifest.json", Path.unlink) else [f"skipped the checkpoint of step {STOPPED}: "]
    stopped.check([6], told)


def test_a_training_without_a_sound_checkpoint_starts_over(stopped: Damaged) -> None:
    folder = stopped.checkpoints()
    flip(folder / "00000006" / "optimizer.safetensors")
    cut(folder / f"{STOPPED:08d}" / "state.json")
    stopped.check([], [f"skipped the checkpoint of step {STOPPED}: ", "skipped the checkpoint of step 6: "])


@pytest.mark.parametrize("name", [*FILES, "export.safetensors"])
def test_a_damaged_end_is_trained_again(name: str, stopped: Damaged) -> None:
    folder = stopped.checkpoints()
    run_rank(stopped.job, Watching())
    flip(folder / "00000012" / name)
    stopped.check([STOPPED, 9], ["skipped the checkpoint of step 12: "])
