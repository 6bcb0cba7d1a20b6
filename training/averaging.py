"""The mean of several checkpoints' trained parameters (Izmailov et al. 2018)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def average(states: Sequence[dict[str, "Tensor"]]) -> dict[str, "Tensor"]:
    """By name. Summed in float64, so that the order of the checkpoints changes nothing."""
    import torch

    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
