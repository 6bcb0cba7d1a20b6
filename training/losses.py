"""What a model of the loop gives for a micro batch. Shapes: N values, O objectives, sorted by name."""

from typing import NamedTuple

import torch
from torch import Tensor


class Losses(NamedTuple):
    """This rank's part of the global loss of one global step."""

    total: Tensor
    """Differentiable scalar, divided by what the whole global batch weighs: parts are summed over ranks and micro
    batches."""
    sum_O: Tensor
    """Detached: each objective's losses times their weights."""
    weight_O: Tensor
    """What sum_O is to be divided by, for the mean of these examples."""


def sums_by_objective(values_N: Tensor, objective_N: Tensor, num_objectives: int) -> Tensor:
    """[O]."""
    return torch.zeros(num_objectives, dtype=values_N.dtype, device=values_N.device).index_add_(
        0, objective_N, values_N
    )
