"""What is trained, by side and by decay: the optimizer's parameter groups."""

from typing import Any

from torch import nn

from training.config import TrainConfig

LANGUAGE_SIDE = ("lm.", "soft_prompt.")
"""Names of parameters in or around the language model begin so; the others are new modules."""


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """For a torch optimizer, `lr` being the peak. Vectors do not decay: that shrinks biases and norms for nothing."""
    regime = config.regime
    language_rate = getattr(regime, "learning_rate", config.learning_rate)
    language_decay = getattr(regime, "weight_decay", config.weight_decay)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = []
    for on_language_side, rate, decay in (
        (False, config.learning_rate, config.weight_decay),
        (True, language_rate, language_decay),
    ):
        side = [parameter for name, parameter in trained if name.startswith(LANGUAGE_SIDE) == on_language_side]
        matrices, vectors = [p for p in side if p.ndim >= 2], [p for p in side if p.ndim < 2]
        groups += [{"params": matrices, "lr": rate, "weight_decay": decay}]
        groups += [{"params": vectors, "lr": rate, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
