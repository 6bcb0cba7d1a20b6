"""Text towers of every kind, in miniature and with random weights, with a tokenizer of a few words."""

from pathlib import Path
from typing import Any

from tiny_language_model import save_tokenizer

KINDS = ("bert", "clip_text_model", "clip", "llama", "gpt2", "t5")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save_text_tower(kind: str, folder: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    num_tokens = save_tokenizer(folder)
    config = AutoConfig.for_model(kind, **_fields(kind, {"vocab_size": num_tokens, "max_position_embeddings": 24}))
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that texts differ in their vectors
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def _fields(kind: str, text: dict[str, int]) -> dict[str, Any]:
    if kind == "gpt2":
        return {"vocab_size": text["vocab_size"], "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    if kind == "t5":
        return {"vocab_size": text["vocab_size"], "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    if kind == "clip":
        vision = {**SMALL, "image_size": 16, "patch_size": 8}
        return {"text_config": {**SMALL, **text, "eos_token_id": 0}, "vision_config": vision}
    if kind == "clip_text_model":
        return {**SMALL, **text, "eos_token_id": 0}
    return {**SMALL, **text}
