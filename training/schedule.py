"""Phases of a training and the learning rate in each, as functions of the global step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from infra.errors import ConfigError
from training.config import TrainConfig
from training.regimes.config import LanguageModelRegime


@dataclass(frozen=True)
class Phase:
    """Global steps [first, last) in which the same parameters are trained, with an optimizer of their own."""

    first: int
    last: int
    mapper_only: bool


def phases_of(config: TrainConfig, num_steps: int) -> list[Phase]:
    """One, or two where the regime lets the mapper train first."""
    regime = config.regime
    fraction = regime.mapper_first_fraction if isinstance(regime, LanguageModelRegime) else 0.0
    border = min(round(fraction * num_steps), num_steps - 1)
    if fraction and border == 0:
        raise ConfigError(
            f"training.regime.mapper_first_fraction is {fraction} of {num_steps} global steps, which is none; expected "
            "at least one and not all. Raise it or the epochs, or leave it out."
        )
    whole = [Phase(0, border, True), Phase(border, num_steps, False)]
    return [phase for phase in whole if phase.first < phase.last]


def learning_rate_factor(config: TrainConfig, phase: Phase, step: int) -> float:
    """In (0, 1]: linear warm-up, then a cosine to min_learning_rate_fraction. `step` counts from 0."""
    num_steps, step = phase.last - phase.first, step - phase.first
    num_warmup = math.ceil(config.warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    floor = config.min_learning_rate_fraction
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
