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


def peft_files(config: LoraRegime | PromptRegime, trained: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The folder's files by name, from the trained parameters by their names in the prefix model.

    They name no language model, which may lie anywhere; PEFT is given it. The mapper has no place there."""
    from safetensors.torch import save

    fields, tensors = _lora(config, trained) if isinstance(config, LoraRegime) else _prompt(trained)
    common = {"base_model_name_or_path": None, "task_type": "CAUSAL_LM", "inference_mode": True}
    return {
        # Only what is not PEFT's default: the whole of its configuration changes with every release.
        "adapter_config.json": canonical_json({**common, **fields}),
        "adapter_model.safetensors": save({name: tensors[name].contiguous() for name in sorted(tensors)}),
    }


def _lora(config: LoraRegime, trained: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Modules are named in full, so that nothing depends on PEFT's table of targets."""
    own = {name.removeprefix(LANGUAGE_MODEL): value for name, value in trained.items() if ".lora_" in name}
    fields = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted({name.partition(".lora_")[0] for name in own}),
    }
    return fields, {f"base_model.model.{name.replace(ADAPTER_NAME, '')}": value for name, value in own.items()}


def _prompt(trained: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    (vectors,) = [value for name, value in trained.items() if name.startswith(SOFT_PROMPT)]
    fields = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": vectors.shape[0], "token_dim": vectors.shape[1]}
    return fields, {"prompt_embeddings": vectors}
