"""Soft prompt by PEFT: learned vectors before everything else. Shapes: K0 prompt vectors, D LM width."""

from typing import Any

import torch
from peft import PromptEmbedding, PromptTuningConfig, PromptTuningInit
from torch import Tensor

from training.regimes.config import PromptRegime


class SoftPrompt(PromptEmbedding):  # type: ignore[misc]  # PEFT is untyped here
    """PEFT's embedding of virtual tokens, all of which are always asked for."""

    def forward(self) -> Tensor:
        """float32[K0, D]."""
        # Through the embedding and not by its weight, which ZeRO-3 gathers only for that module's forward.
        weight = self.embedding.weight
        vectors: Tensor = self.embedding(torch.arange(self.embedding.num_embeddings, device=weight.device))
        return vectors


def build_soft_prompt(config: PromptRegime, language_model: Any) -> SoftPrompt:
    """Starts at the embeddings of random tokens, and so at the language model's scale."""
    embed = language_model.get_input_embeddings()
    return SoftPrompt(
        PromptTuningConfig(
            num_virtual_tokens=config.num_tokens,
            token_dim=embed.embedding_dim,
            num_transformer_submodules=1,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        ),
        embed,
    )
