"""Checkpoints of every kind of vision tower, in miniature and with random weights."""

from pathlib import Path
from typing import Any

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SQUARE = {"image_size": 32, "patch_size": 8}
KINDS = {
    # kind: (class and register tokens, grid side, vision width)
    "vit": (1, 4, 16),
    "clip": (1, 4, 16),
    "clip_vision_model": (1, 4, 16),
    "siglip": (0, 4, 16),
    "siglip_vision_model": (0, 4, 16),
    "dinov2": (1, 4, 16),
    "dinov2_with_registers": (5, 4, 16),
    "swin": (0, 2, 16),
    "resnet": (0, 4, 16),
    "regnet": (0, 4, 16),
    "convnext": (0, 4, 16),
    "mobilenet_v2": (0, 4, 1280),
}


def save_tower(kind: str, folder: Path) -> None:
    """A model of this kind for pictures of 32 px, without its processor."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **_fields(kind)))
    with torch.no_grad():
        for parameter in model.parameters():  # so that pictures differ in their features
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)


def _fields(kind: str) -> dict[str, Any]:
    if kind in ("clip", "siglip"):
        text = {**SMALL, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}
        return {"text_config": text, "vision_config": {**SMALL, **SQUARE}}
    if kind == "swin":
        return {
            "image_size": 32,
            "patch_size": 8,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 2,
        }
    if kind == "resnet":
        return {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    if kind == "regnet":
        return {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8, "layer_type": "x"}
    if kind == "convnext":
        return {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    if kind == "mobilenet_v2":
        return {"image_size": 32, "depth_multiplier": 0.25, "output_stride": 8}
    return {**SMALL, **SQUARE}
