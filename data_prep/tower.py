"""Frozen vision towers: any transformers vision checkpoint in safetensors.

Shapes: B images, C channels, H height, W width, P patches, V vision width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from data_prep.images import DECODE_VERSION, decode
from infra.digests import digest_json
from infra.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VIEW = "original"
ENCODE_VERSION = 1
"""Part of the encoder key: raise it when a tower and pixels give other features. It is the step's version too."""


class FeatureConfig(BaseModel):
    """What decides the bytes of the features, besides the tower itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    layer: int = -1
    """Hidden state to take; -1 is the tower's last. LLaVA takes -2 of CLIP."""
    pooling: Literal["none", "mean"] = "none"
    """`none` keeps every patch, `mean` makes one vector of them (P = 1)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; features are stored as float16 in any case."""


def encoder_key(tower_digest: str, config: FeatureConfig) -> str:
    """Names features: equal keys mean that an image encoded under one is encoded under the other."""
    return digest_json([tower_digest, config.model_dump(mode="json"), DECODE_VERSION, ENCODE_VERSION, VIEW])


class Tower:
    """A loaded vision tower. `encode` is a function of the image's bytes alone: batches are padded to full size."""

    def __init__(self, folder: Path, config: FeatureConfig, batch_size: int, device: str) -> None:
        import torch

        self.config = config
        self.batch_size = batch_size
        self.device = device
        self.dtype = getattr(torch, config.dtype)
        self.processor = _load_processor(folder)
        self.model = _load_vision_model(folder, self.dtype).to(device)

    def encode(self, images: Sequence[bytes]) -> NDArray[np.float16]:
        """Source bytes → float16[B, P, V]. Raises DataError for bytes that cannot be decoded."""
        import numpy as np

        starts = range(0, len(images), self.batch_size)
        return np.concatenate([self._encode_batch(images[start : start + self.batch_size]) for start in starts])

    def _encode_batch(self, images: Sequence[bytes]) -> NDArray[np.float16]:
        import torch

        decoded = [decode(data) for data in images]
        padded = decoded + decoded[:1] * (self.batch_size - len(decoded))
        pixels_BCHW = self.processor(images=padded, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        with torch.inference_mode():
            patches_BPV = self._patches(pixels_BCHW)
        features_BPV: NDArray[np.float16] = patches_BPV[: len(images)].to(torch.float16).cpu().numpy()
        return features_BPV

    def _layer(self, states: Any) -> Any:
        if not -len(states) <= self.config.layer < len(states):
            raise ConfigError(
                f"featurize.layer is {self.config.layer}; expected {-len(states)} to {len(states) - 1}, since "
                f"the tower has {len(states)} hidden states. Change this value."
            )
        return states[self.config.layer]

    def _patches(self, pixels_BCHW: Any) -> Any:
        if self.config.layer == -1:
            hidden = self.model(pixel_values=pixels_BCHW).last_hidden_state
        else:
            hidden = self._layer(self.model(pixel_values=pixels_BCHW, output_hidden_states=True).hidden_states)
        if hidden.ndim == 4:  # a feature map [B, V, H, W]
            hidden = hidden.flatten(2).transpose(1, 2)
        return hidden.float().mean(dim=1, keepdim=True) if self.config.pooling == "mean" else hidden


def _load_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: no image processor could be read ({str(error).splitlines()[0]}); expected "
            "preprocessor_config.json of a vision model. Name a vision tower under vision_tower."
        ) from error


def _load_vision_model(folder: Path, dtype: Any) -> Any:
    """The vision part of the checkpoint, frozen. Two-tower models (CLIP, SigLIP) give their vision half."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, info = AutoModel.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: cannot be loaded ({str(error).splitlines()[0]}); expected a transformers vision checkpoint in "
            "safetensors. Check vision_tower in the recipe."
        ) from error
    half = "vision_model." if hasattr(model, "vision_model") else ""
    missing = sorted(key for key in info["missing_keys"] if key.startswith(half) and not _is_unused(key))
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} weights are missing, the first {missing[0]}; expected all of them: transformers "
            "would fill in random ones. Check that the weights belong to config.json."
        )
    model = getattr(model, "vision_model", model)
    return model.eval().requires_grad_(False)


def _is_unused(key: str) -> bool:
    """Checkpoints of classifiers come without a pooler; evaluation does not count batches."""
    return "pooler" in key or key.endswith("num_batches_tracked")
