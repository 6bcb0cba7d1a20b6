"""Frostline: `run_rank` as a launcher calls it, one rank in this process, under DeepSpeed on a group of one."""

import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jobs import IMAGE_NAMES
from sides import serve
from steps import Marks
from torch import distributed

from data_prep.features import FeatureStore
from data_prep.tower import FeatureConfig, Tower
from data_prep.views import ORIGINAL
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.store import open_store
from training import setup
from training.checkpoints import Checkpoint, CheckpointFolder
from training.job import TrainJob, checkpoint_prefix
from training.loop import run_rank
from training.setup import prepare

IMAGES_PER_ENCODE = 16


class MarkedSteps:
    """A link that notes when each global step was done."""

    def __init__(self) -> None:
        self.marks = Marks()

    def report(self, step: int, *_: object) -> None:
        if step:
            self.marks.mark()

    def stopping(self) -> bool:
        return False


def train(job: str, warm_up_steps: int, **changes: Any) -> dict[str, Any]:
    """The whole training, from its first step; `changes` are of the configuration."""
    asked = read_job(job, **changes)
    open_store(asked.store_uri).delete(checkpoint_prefix(asked.fingerprint))
    link = MarkedSteps()
    run_rank(asked, link)
    losses = [loss for _, loss in _finished(asked).state["history"]["curves"]["loss"]]
    return {**link.marks.steady(targets_by_step(job), warm_up_steps), "losses": losses}


def train_encoding(job: str, warm_up_steps: int, tower: str, photos: str) -> dict[str, Any]:
    """The same, but each batch's features are made from its photos."""
    names = json.loads((Path(job).parent / IMAGE_NAMES).read_text())
    files = {image_id: Path(photos) / name for image_id, name in names.items()}
    setup.FeatureStore = partial(EncodingStore, Path(tower), files)  # type: ignore[assignment,misc]
    return train(job, warm_up_steps)


class EncodingStore(FeatureStore):
    """A feature store that encodes what it is asked for, every time."""

    def __init__(self, tower: Path, files: dict[str, Path], manifest: Manifest, cache: PartCache) -> None:
        super().__init__(manifest, cache)
        self._files = files
        self._tower = Tower(tower, FeatureConfig(), IMAGES_PER_ENCODE, "cpu")

    def gather(self, image_ids: Sequence[str], view: str = ORIGINAL) -> np.ndarray:
        assert view == ORIGINAL
        return self._tower.encode([self._files[image_id].read_bytes() for image_id in image_ids])


def pauses(job: str, checkpoint_every_steps: int) -> dict[str, Any]:
    """Seconds of a training's steps, and of these what the loop counts as checkpoints; bytes of a checkpoint's
    tensors. The last checkpoint comes after the last step."""
    train(job, 1, checkpoint_every_steps=checkpoint_every_steps)
    finished = _finished(read_job(job))
    curves = finished.state["history"]["curves"]
    assert len(curves["checkpoint_seconds"]) == (len(curves["loss"]) - 1) // checkpoint_every_steps
    return {
        "paused_seconds": sum(value for _, value in curves["checkpoint_seconds"]),
        "seconds": sum(value for _, value in curves["step_seconds"]),
        "bytes": sum(t.nbytes for name in ("trainables", "optimizer") for t in finished.tensors[name].values()),
    }


def read_job(path: str, **changes: Any) -> TrainJob:
    job = TrainJob.model_validate_json(Path(path).read_text())
    return job.model_copy(update={"config": job.config.model_copy(update=changes)})


@cache
def targets_by_step(path: str) -> list[int]:
    prepared = prepare(read_job(path), 0, 1)
    batches = (prepared.order.batch(step) for step in range(prepared.order.num_steps))
    return [sum(image.num_targets for image in batch) for batch in batches]


def _finished(job: TrainJob) -> Checkpoint:
    store = open_store(job.store_uri)
    checkpoint, _ = CheckpointFolder(store, checkpoint_prefix(job.fingerprint), 1).newest()
    assert checkpoint is not None and checkpoint.state["finished"]
    return checkpoint


def join_group_of_one() -> None:
    """With the variables that DeepSpeed asks for, as a launcher sets them."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    rendezvous = Path(tempfile.mkdtemp()) / "rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=0, world_size=1)


if __name__ == "__main__":
    join_group_of_one()
    serve(
        {"train": train, "train_encoding": train_encoding, "pauses": pauses},
        ("frostline", "torch", "deepspeed", "transformers", "numpy"),
    )
