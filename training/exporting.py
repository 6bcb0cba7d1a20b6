"""Which trained parameters leave a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import IntegrityError
from training.averaging import average
from training.checkpoints import CheckpointFolder
from training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor


def steps_to_keep(config: TrainConfig, step: int, best_step: int | None) -> list[int]:
    """Earlier steps whose checkpoints an export after `step` reads, whatever else is forgotten.

    The mean is over scheduled checkpoints: one that a request to stop left is not of an undisturbed training."""
    export, every = config.stopping.export, config.checkpoint_every_steps
    if export == "best" and best_step is not None and best_step != step:
        return [best_step]
    if export == "average":
        newest = (step - 1) // every * every
        return list(range(newest, 0, -every)[: config.stopping.average_checkpoints - 1])
    return []


def exported(
    config: TrainConfig, best_step: int | None, checkpoints: CheckpointFolder, last: tuple[int, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], list[str]]:
    """(parameters, messages), given the last step and its parameters. What cannot be read is left out, and told."""
    last_step, parameters = last
    read, messages = _read(checkpoints, steps_to_keep(config, last_step, best_step), parameters)
    if config.stopping.export == "average":
        return average([*read, parameters]), [*messages, f"exported the mean of {len(read) + 1} checkpoints"]
    if read:
        return read[0], [f"exported global step {best_step}, the best by {config.stopping.metric}"]
    if config.stopping.export == "best" and best_step != last_step:
        messages.append(f"exported the last global step: no whole checkpoint of the best {config.stopping.metric}")
    return parameters, messages


def _read(
    checkpoints: CheckpointFolder, steps: list[int], parameters: dict[str, Tensor]
) -> tuple[list[dict[str, Tensor]], list[str]]:
    """Of those that verify and in which the same parameters were trained."""
    found, messages = [], []
    for step in steps:
        try:
            tensors = checkpoints.load(step).tensors["trainables"]
        except IntegrityError as error:
            messages.append(f"left out the checkpoint of step {step}: {error}")
            continue
        if tensors.keys() == parameters.keys():
            found.append(tensors)
        else:
            messages.append(f"left out the checkpoint of step {step}: it is of the phase that trained the mapper first")
    return found, messages
