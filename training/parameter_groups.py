"""Which trained parameters share a learning rate and a weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from training.config import TrainConfig
from training.regimes.config import LanguageModelRegime, LitRegime

LANGUAGE_SIDE = ("lm.", "soft_prompt.")
"""Beginnings of the names of what a regime trains. All else that is trained is new: mapper and heads."""


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The optimizer's groups: none is empty, and together they hold every trained parameter once.

    Two sides with rates of their own; on each side vectors (biases, norms) are not decayed."""
    rates = {False: (config.learning_rate, config.weight_decay)}
    if isinstance(config.regime, LanguageModelRegime | LitRegime) and config.regime.learning_rate is not None:
        rates[True] = (config.regime.learning_rate, config.regime.weight_decay)
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault((name.startswith(LANGUAGE_SIDE), parameter.ndim >= 2), []).append(parameter)
    return [
        {"params": found[side, decays], "lr": rates[side][0], "weight_decay": rates[side][1] if decays else 0.0}
        for side, decays in sorted(found)
    ]
