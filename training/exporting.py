"""Which trained parameters leave a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import IntegrityError
from training.averaging import average
from training.checkpoints import CheckpointFolder
from training.config import StoppingConfig

if TYPE_CHECKING:
    from torch import Tensor


def exported(
    config: StoppingConfig, best_step: int | None, checkpoints: CheckpointFolder, last: tuple[int, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], list[str]]:
    """(parameters, messages), given the last step and its parameters. What cannot be read is left out, and told."""
    last_step, parameters = last
    if config.export == "last" or (config.export == "best" and best_step in (None, last_step)):
        return parameters, []
    if config.export == "best":
        assert best_step is not None
        read, messages = _read(checkpoints, [best_step], parameters)
        return (
            (read[0], [f"exported global step {best_step}, the best by {config.metric}"])
            if read
            else (
                parameters,
                [*messages, "exported the last global step instead of the best"],
            )
        )
    steps = [step for step in checkpoints.steps() if step < last_step][-(config.average_checkpoints - 1) :]
    read, messages = _read(checkpoints, steps, parameters)
    return average([*read, parameters]), [*messages, f"exported the mean of {len(read) + 1} checkpoints"]


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
    return found, messages
