"""Saves of checkpoints, to be run in a process of its own and killed there."""

from pathlib import Path

import safetensors.torch  # for the forge: a child imports nothing more
import torch

from infra.store import LocalStore
from training.checkpoint_writer import CheckpointWriter
from training.checkpoints import CheckpointFolder

PREFIX = "train/checkpoints/abc"
assert safetensors.torch


def folder_in(store_dir: Path) -> CheckpointFolder:
    return CheckpointFolder(LocalStore(store_dir), PREFIX, keep=2)


def tensors_of(step: int) -> dict[str, dict[str, torch.Tensor]]:
    weights = torch.full((3,), float(step))
    return {"trainables": {"mapper": weights}, "optimizer": {"mapper.exp_avg": weights * 2}}


def save(store_dir: str, *steps: int) -> None:
    writer = CheckpointWriter(folder_in(Path(store_dir)))
    for step in steps:
        writer.save(step, tensors_of(step), {"global_step": step})
    writer.wait()
    writer.close()
