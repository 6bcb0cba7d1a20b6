"""Ranks of trainings in processes of their own, as torchrun would start them, in milliseconds."""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from forge import Forge

from infra.store import open_store
from training.checkpoints import Checkpoint, CheckpointFolder
from training.job import TrainJob, checkpoint_prefix

KILLED = -9


class Ranks:
    """`run` trains a job on the first `num_ranks` of them."""

    def __init__(self, num_ranks: int, warm_up: TrainJob, folder: Path) -> None:
        self._stack = ExitStack()
        path = saved(warm_up, folder / "warm_up.json")
        self._forges = [self._stack.enter_context(Forge("training_program", path)) for _ in range(num_ranks)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, job: TrainJob, folder: Path, disturbed: Mapping[int, Mapping[str, str]] | None = None) -> list[int]:
        """Exit statuses by rank, negative for signals. `disturbed`: what a rank's environment says besides."""
        path, num_ranks = saved(job, folder / "job.json"), job.resources.num_ranks
        common = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

        def start(rank: int) -> int:
            told = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(disturbed or {}).get(rank, {})}
            return self._forges[rank].run("run", path, **told)

        with ThreadPoolExecutor(num_ranks) as threads:
            return list(threads.map(start, range(num_ranks)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def saved(job: TrainJob, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_dump_json())
    return str(path)


def folder_of(job: TrainJob) -> CheckpointFolder:
    return CheckpointFolder(open_store(job.store_uri), checkpoint_prefix(job.fingerprint), job.config.keep_checkpoints)


def final(job: TrainJob) -> Checkpoint:
    """The finished checkpoint, which is the newest."""
    checkpoint, skipped = folder_of(job).newest()
    assert checkpoint is not None and checkpoint.state["finished"] and not skipped
    return checkpoint
