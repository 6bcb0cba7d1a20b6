"""Trained parameters as the folder of a PEFT adapter: `PeftModel.from_pretrained(language_model, folder)` loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.digests import canonical_json
from training.regimes.config import LoraRegime, PromptRegime

if TYPE_CHECKING:
    from torch import Tensor

LANGUAGE_MODEL, SOFT_PROMPT = "lm.", "soft_prompt."
"""Where a prefix model keeps them."""
ADAPTER_NAME = ".default"


def peft_files(
    config: LoraRegime | PromptRegime, trained: Mapping[str, Tensor], language_model: str
) -> dict[str, bytes]:
    """The folder's files by name, from the trained parameters by their names in the prefix model.

    `language_model` is the hub id or folder written into the adapter's configuration. The mapper has no place there."""
    from safetensors.torch import save

    if isinstance(config, LoraRegime):
        settings, tensors = _lora(config, trained)
    else:
        settings, tensors = _prompt(trained)
    settings.base_model_name_or_path = language_model
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}
    return {
        "adapter_config.json": canonical_json(fields),
        "adapter_model.safetensors": save({name: tensors[name].contiguous() for name in sorted(tensors)}),
    }


def _lora(config: LoraRegime, trained: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Modules are named in full, so that nothing depends on PEFT's defaults."""
    from peft import LoraConfig, TaskType

    own = {name.removeprefix(LANGUAGE_MODEL): value for name, value in trained.items() if ".lora_" in name}
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=sorted({name.partition(".lora_")[0] for name in own}),
        task_type=TaskType.CAUSAL_LM,
        inference_mode=True,
    )
    return settings, {f"base_model.model.{name.replace(ADAPTER_NAME, '')}": value for name, value in own.items()}


def _prompt(trained: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    from peft import PromptTuningConfig, TaskType

    (vectors,) = [value for name, value in trained.items() if name.startswith(SOFT_PROMPT)]
    settings = PromptTuningConfig(
        num_virtual_tokens=vectors.shape[0],
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,
        task_type=TaskType.CAUSAL_LM,
        inference_mode=True,
    )
    return settings, {"prompt_embeddings": vectors}
