"""The mean of several checkpoints' trained parameters (Izmailov et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By name, of states as any ZeRO stage captures them. Raises ValueError where names or shapes differ."""
    import torch

    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("the states differ in names or shapes; expected those of one model, trained alike")
    # In float64, so that their order changes nothing, and the mean of equal ones is the same bits.
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
