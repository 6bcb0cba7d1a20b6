"""The families of language models that Frostline is tested with: two layers, random weights, built from a config."""

from collections.abc import Callable
from typing import Any

NUM_LAYERS, NUM_HEADS, MAX_POSITIONS = 2, 4, 128
BOS, EOS = 1, 2
TIED = ("gpt2", "opt", "smollm3")
"""Families whose output matrix is the embedding."""
FAMILIES = ("gpt2", "gpt_neox", "llama", "opt", "qwen3", "smollm3")


def spread(model: Any) -> None:
    """Draw its matrices anew, so wide that texts depend on what is read."""
    import torch

    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)


def families(vocabulary: int = 101, width: int = 32) -> dict[str, Callable[[], Any]]:
    """A builder for each family; its weights come from torch's generator. Hidden widths of perceptrons are 2 * width,
    of Llama-like attention NUM_HEADS query heads and half as many for keys and values."""

    def gpt2() -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = {"n_embd": width, "n_layer": NUM_LAYERS, "n_head": NUM_HEADS, "n_inner": 2 * width}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=MAX_POSITIONS, **shape, **_tokens()))

    def opt() -> Any:
        from transformers import OPTConfig, OPTForCausalLM

        shape = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 2 * width}
        return OPTForCausalLM(OPTConfig(**shape, **_common(vocabulary)))

    def gpt_neox() -> Any:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        shape = {"hidden_size": width, "intermediate_size": 2 * width, "tie_word_embeddings": False}
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **_common(vocabulary)))

    def llama() -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(LlamaConfig(**_grouped(width), tie_word_embeddings=False, **_common(vocabulary)))

    def qwen3() -> Any:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        shape = {**_grouped(width), "head_dim": width // NUM_HEADS, "tie_word_embeddings": False}
        return Qwen3ForCausalLM(Qwen3Config(**shape, **_common(vocabulary)))

    def smollm3() -> Any:
        from transformers import SmolLM3Config, SmolLM3ForCausalLM

        # One layer with rotary positions and one without, as in the published model's periods of four.
        shape = {**_grouped(width), "no_rope_layers": [1, 0], "tie_word_embeddings": True}
        return SmolLM3ForCausalLM(SmolLM3Config(**shape, **_common(vocabulary)))

    return {
        "gpt2": gpt2,
        "gpt_neox": gpt_neox,
        "llama": llama,
        "opt": opt,
        "qwen3": qwen3,
        "smollm3": smollm3,
    }


def _tokens() -> dict[str, int]:
    return {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS}


def _common(vocabulary: int) -> dict[str, int]:
    shape = {"num_hidden_layers": NUM_LAYERS, "num_attention_heads": NUM_HEADS}
    return {"vocab_size": vocabulary, "max_position_embeddings": MAX_POSITIONS, **shape, **_tokens()}


def _grouped(width: int) -> dict[str, int]:
    return {"hidden_size": width, "intermediate_size": 2 * width, "num_key_value_heads": NUM_HEADS // 2}
