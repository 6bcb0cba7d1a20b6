"""Objectives that are trained together: the weighted likelihood of target tokens, kept apart by task.

Shapes: N target tokens, C vocabulary, O objectives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.config import TrainConfig


@dataclass(frozen=True)
class Objective:
    """One task's part of the loss."""

    name: str
    template: str
    """The text before the target; {prompt} is the example's own."""
    weight: float

    def prompt(self, asked: str) -> str:
        return self.template.replace("{prompt}", asked)


def objectives_of(config: TrainConfig) -> tuple[Objective, ...]:
    """Tasks with a template and a weight, sorted by name."""
    return tuple(
        Objective(task, template, config.weight_of(task))
        for task, template in sorted(config.prompts.items())
        if config.weight_of(task) > 0
    )


def token_losses(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target token, in fp32."""
    return functional.cross_entropy(logits_NC.float(), target_N, reduction="none")


def sums_by_objective(values_N: Tensor, objective_N: Tensor, num_objectives: int) -> Tensor:
    """[O]."""
    return torch.zeros(num_objectives, dtype=values_N.dtype, device=values_N.device).index_add_(
        0, objective_N, values_N
    )
