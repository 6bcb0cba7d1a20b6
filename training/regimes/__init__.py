"""Which parameters are trained beside the mapper. One file per regime; `apply_regime` picks by the configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from training.regimes.config import (
    AdapterRegime,
    BitfitRegime,
    FullRegime,
    LoraRegime,
    PromptRegime,
    RegimeConfig,
)

if TYPE_CHECKING:
    from torch import nn


class ModuleCount(NamedTuple):
    """Numbers of parameters of one module, or of the same module in all layers."""

    module: str
    """Path in the model; a layer's number is written `*`."""
    num_trained: int
    num_frozen: int


def apply_regime(config: RegimeConfig, language_model: nn.Module, seed: int) -> nn.Module | None:
    """Freeze a causal language model of `transformers` but for what the regime trains, and inject what is new.

    Trained parameters become fp32, new ones are a function of the seed, and all is in eval mode. Returns the soft
    prompt of `prompt`, a module () -> float32[K0, D]. Raises ConfigError where the regime finds nothing to train."""
    import torch

    language_model.requires_grad_(False)
    soft_prompt = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(config, LoraRegime):
            from training.regimes.lora import inject_lora

            inject_lora(config, language_model)
        elif isinstance(config, PromptRegime):
            from training.regimes.prompt import build_soft_prompt

            soft_prompt = build_soft_prompt(config, language_model)
        elif isinstance(config, BitfitRegime):
            from training.regimes.bitfit import train_vectors

            train_vectors(config, language_model)
        elif isinstance(config, AdapterRegime):
            from training.regimes.adapter import inject_adapters

            inject_adapters(config, language_model)
        elif isinstance(config, FullRegime):
            language_model.requires_grad_(True)
    for parameter in language_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    set_train_mode(language_model, False)  # what was injected came in train mode
    return soft_prompt


def set_train_mode(language_model: nn.Module, training: bool) -> None:
    """Eval mode for all but the dropout of injected modules: the language model's own would be noise."""
    language_model.eval()
    for name, module in language_model.named_modules():
        if name.endswith(".lora_dropout"):
            module.train(training)


def trained_and_frozen(model: nn.Module) -> list[ModuleCount]:
    """What is trained and what is frozen, by module. Under ZeRO-3 ask before the parameters are partitioned."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        module = re.sub(r"\.\d+(?=\.|$)", ".*", name.rpartition(".")[0])
        counts.setdefault(module, [0, 0])[0 if parameter.requires_grad else 1] += parameter.numel()
    return [ModuleCount(module, *numbers) for module, numbers in counts.items()]
