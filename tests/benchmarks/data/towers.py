"""The towers of the benchmark: a ViT of the size of ViT-S with random weights, and the pretrained MobileNetV2."""

from pathlib import Path

VIT_SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}


def vit_small(root: Path) -> Path:
    """224 px in patches of 16; saved once, so that both sides load the same weights."""
    return _vit(root / "vit-small", {**VIT_SMALL, "image_size": 224, "patch_size": 16})


def vit_tiny(root: Path) -> Path:
    """As good as free: for what an output costs besides its encodes."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return _vit(root / "vit-tiny", {**small, "image_size": 16, "patch_size": 8})


def wide_and_shallow(root: Path) -> Path:
    """Patches of 768 numbers without a layer above them: many bytes of features for little work."""
    none = {"hidden_size": 768, "num_hidden_layers": 0, "num_attention_heads": 2, "intermediate_size": 32}
    return _vit(root / "wide-and-shallow", {**none, "image_size": 224, "patch_size": 16})


def _vit(folder: Path, sizes: dict[str, int]) -> Path:
    if (folder / "preprocessor_config.json").exists():
        return folder
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(folder)
    side = sizes["image_size"]
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
