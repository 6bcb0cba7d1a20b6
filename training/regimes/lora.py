"""LoRA by PEFT: low-rank updates beside frozen matrices."""

from typing import Any

from torch import nn

from infra.errors import ConfigError
from training.regimes.config import LoraRegime

ALL_LINEAR = "all-linear"


def inject_lora(config: LoraRegime, language_model: Any) -> None:
    """Put the updates in; they start at zero. Raises ConfigError where target_modules name no matrices."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    targets = _targets(config, language_model)
    peft_config = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # PEFT divides by the rank
        lora_dropout=config.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in language_model.modules()),
    )
    try:
        inject_adapter_in_model(peft_config, language_model)
    except ValueError as error:
        raise ConfigError(
            f"regime lora cannot update {targets} of {type(language_model).__name__} "
            f"({str(error).strip().splitlines()[0]}); expected linear layers. Set regime.target_modules to their names "
            f"or to {ALL_LINEAR}."
        ) from error


def _targets(config: LoraRegime, language_model: Any) -> list[str] | str:
    """Raises ConfigError for a name that matches no module, and where nothing is named and PEFT has no default."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    if config.target_modules == ALL_LINEAR:
        return ALL_LINEAR
    model_type = language_model.config.model_type
    targets = config.target_modules or DEFAULTS.get(model_type)
    if targets is None:
        raise ConfigError(
            f"regime lora names no target_modules, and PEFT has no default for models of type {model_type}; expected "
            f"names of linear layers. Set regime.target_modules to {ALL_LINEAR} or to names such as [q_proj, v_proj]."
        )
    if isinstance(targets, str):  # a regular expression, in PEFT's table only
        return targets
    names = [name for name, _ in language_model.named_modules()]
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        raise ConfigError(
            f"regime.target_modules names {missing}, which {type(language_model).__name__} has not; expected names of "
            f"its linear layers. Set it to {ALL_LINEAR} or to names such as {_examples(language_model)}."
        )
    return list(targets)


def _examples(language_model: Any) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    linear = (nn.Linear, Conv1D)
    return sorted(
        {name.rpartition(".")[2] for name, module in language_model.named_modules() if isinstance(module, linear)}
    )
