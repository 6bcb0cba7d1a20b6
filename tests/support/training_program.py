"""One rank of a training as `python -m training.train JOB` runs it, killed where the environment says.

KILL_AT=CALL | NUMBER | SIDE   SIGKILL before or after the NUMBERth call of one of CALLS
KILL_AFTER=SECONDS             SIGKILL so long after the start
KILL_WITH=NUMBER               another signal in its place
HANG=SECONDS                   not a signal: it does nothing for so long
POISON=STEP,…                  the losses of these global steps (from 1) are not finite
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from training import loop, setup, zero
from training.checkpoint_writer import CheckpointWriter
from training.job import TrainJob
from training.train import main

CALLS: dict[str, tuple[Any, str]] = {
    "join": (distributed, "init_process_group"),
    "prepare": (loop, "prepare"),
    "resume": (loop.TrainLoop, "_resume"),
    "enter": (loop, "enter"),
    "forward": (zero.ZeroEngine, "__call__"),
    "backward": (zero.ZeroEngine, "backward"),
    "step": (zero.ZeroEngine, "step"),
    "validation": (loop.TrainLoop, "_validation_losses"),
    "capture": (zero.ZeroEngine, "capture"),
    "hand over": (CheckpointWriter, "save"),
    "finish": (loop.TrainLoop, "_finish"),
}


def warm_up(job: str) -> None:
    """In the forge itself: what a training imports. No process group, and no thread that a fork would lose."""
    zero._import_deepspeed()
    prepared = setup.prepare(TrainJob.model_validate_json(Path(job).read_text()), 0, 1)
    prepared.build_model()


def run(job: str) -> None:
    """One rank, by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Fails where the training does."""
    if at := os.environ.get("KILL_AT"):
        name, number, side = at.split(" | ")
        _kill_at(CALLS[name], int(number), side)
    if seconds := os.environ.get("KILL_AFTER"):
        timer = threading.Timer(float(seconds), _kill)
        timer.daemon = True
        timer.start()
    if poisoned := os.environ.get("POISON"):
        poison({int(step) for step in poisoned.split(",")})
    code = main(job)
    if code:
        os._exit(code)


def poison(steps: set[int]) -> None:
    """What a model of overflowing numbers gives in these global steps, on the last rank."""
    train_step: Callable[..., Any] = loop.TrainLoop._train_step

    def poisoned(self: loop.TrainLoop, batch: Any) -> Any:
        if self.step + 1 in steps and self.rank == distributed.get_world_size() - 1:
            for micro_batch in batch.micro_batches:
                micro_batch.tensors.patches_BPV.fill_(torch.inf)
        return train_step(self, batch)

    loop.TrainLoop._train_step = poisoned  # type: ignore[method-assign]


def _kill_at(call: tuple[Any, str], number: int, side: str) -> None:
    owner, name = call
    original = getattr(owner, name)
    num_calls = 0

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == number and side == "before":
            _kill()
        made = original(*args, **more)
        if num_calls == number and side == "after":
            _kill()
        return made

    setattr(owner, name, counted)


def _kill() -> None:
    if seconds := os.environ.get("HANG"):
        time.sleep(float(seconds))
        os._exit(1)
    os.kill(os.getpid(), int(os.environ.get("KILL_WITH", signal.SIGKILL)))
