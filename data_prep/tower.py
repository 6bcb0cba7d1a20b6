"""Frozen vision towers: any transformers vision checkpoint in safetensors.

Shapes: B images, C channels, H height, W width, P patches, V vision width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_prep.images import DECODE_VERSION, decode
from data_prep.pooling import POOLINGS, pool
from infra.digests import digest_json
from infra.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

ENCODE_VERSION = 2
"""Part of the encoder key: raise it when a tower and pixels give other features. It is the step's version too."""


class FeatureConfig(BaseModel):
    """What decides the bytes of the features, besides the tower itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    layer: int = -1
    """Hidden state to take; -1 is the tower's last. LLaVA takes -2 of CLIP."""
    pooling: str = Field(default="patches", pattern=POOLINGS)
    """`patches` keeps every patch, row by row, without class and register tokens; `cls` is the class token alone;
    `grid:k` averages the patches to k × k; `mean` is `grid:1`."""
    views: int = Field(default=0, ge=0, le=64)
    """Augmented views that are stored of each image beside the image itself."""
    view_seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; features are stored as float16 in any case."""

    @model_validator(mode="after")
    def _seed_has_a_use(self) -> FeatureConfig:
        if self.view_seed and not self.views:
            raise ValueError(f"view_seed is {self.view_seed}, but views is 0; expected views of 1 or more to seed")
        return self


def encoder_key(tower_digest: str, config: FeatureConfig, reencode_digest: str = "") -> str:
    """Names features: equal keys mean that an image encoded under one is encoded under the other.

    The tower digest covers the processor's file; `reencode_digest` says what the dataset did to the source bytes."""
    versions = [DECODE_VERSION, ENCODE_VERSION]
    return digest_json([tower_digest, config.model_dump(mode="json"), reencode_digest, *versions])


class Tower:
    """A loaded vision tower. Features are a function of the image's bytes alone: batches are padded to full size."""

    def __init__(self, folder: Path, config: FeatureConfig, batch_size: int, device: str) -> None:
        import torch

        self.config = config
        self.batch_size = batch_size
        self.device = device
        self.dtype = getattr(torch, config.dtype)
        self.processor = _load_processor(folder)
        # Channels last: MobileNetV2 takes 34 ms an image instead of 54 on one core, and other low bits.
        self.model = _load_vision_model(folder, self.dtype).to(device, memory_format=torch.channels_last)

    def encode(self, images: Sequence[bytes]) -> NDArray[np.float16]:
        """Source bytes → float16[B, P, V], of the images as they are. Raises DataError for what cannot be decoded."""
        import numpy as np

        batches = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        return np.concatenate([self.encode_pixels(self.pixels([decode(data) for data in batch])) for batch in batches])

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """[B, C, H, W] by the checkpoint's own processor. Several threads may call this at once."""
        pixels_BCHW: NDArray[np.float32] = self.processor(images=list(images), return_tensors="np")["pixel_values"]
        return pixels_BCHW

    def encode_pixels(self, pixels_BCHW: NDArray[np.float32]) -> NDArray[np.float16]:
        """At most one batch of pixels → float16[B, P, V]."""
        import numpy as np
        import torch

        num_images = len(pixels_BCHW)
        missing = self.batch_size - num_images
        if missing:
            pixels_BCHW = np.concatenate([pixels_BCHW, np.repeat(pixels_BCHW[:1], missing, axis=0)])
        with torch.inference_mode():
            pixels = torch.from_numpy(pixels_BCHW).to(self.device, self.dtype, memory_format=torch.channels_last)
            patches_BPV = features_of(self.model, pixels, self.config)
            features_BPV: NDArray[np.float16] = patches_BPV[:num_images].to(torch.float16).cpu().numpy()
        return features_BPV


def feature_shape(folder: Path, config: FeatureConfig) -> tuple[int, int]:
    """(patches, vision width) of the features that this tower gives, from its configuration alone: no weights are read
    and nothing is computed."""
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModel
    from transformers.initialization import no_init_weights

    pixels_CHW = _load_processor(folder)(images=Image.new("RGB", (64, 64)))["pixel_values"][0]
    with torch.device("meta"), no_init_weights(), torch.no_grad():
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False), dtype=torch.float32)
        # Not every tower heeds the dtype: MobileNetV2 follows its own configuration.
        model = getattr(model, "vision_model", model).float().eval()
        _, num_patches, width = features_of(model, torch.zeros(1, *pixels_CHW.shape), config).shape
    return int(num_patches), int(width)


def features_of(model: Any, pixels_BCHW: Any, config: FeatureConfig) -> Any:
    """[B, P, V] in the model's dtype."""
    patch_px = getattr(model.config, "patch_size", None)
    return pool(_hidden_state(model, pixels_BCHW, config.layer), pixels_BCHW.shape[2:], patch_px, config.pooling)


def _hidden_state(model: Any, pixels_BCHW: Any, layer: int) -> Any:
    if layer == -1:
        return model(pixel_values=pixels_BCHW).last_hidden_state
    states = model(pixel_values=pixels_BCHW, output_hidden_states=True).hidden_states
    if not -len(states) <= layer < len(states):
        raise ConfigError(
            f"featurize.layer is {layer}; expected {-len(states)} to {len(states) - 1}, since "
            f"the tower has {len(states)} hidden states. Change this value."
        )
    return states[layer]


def _load_processor(folder: Path) -> Any:
    from PIL import Image
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: no image processor could be read ({str(error).splitlines()[0]}); expected "
            "preprocessor_config.json of a vision model. Name a vision tower under vision_tower."
        ) from error
    wide, high = (processor(images=Image.new("RGB", size))["pixel_values"][0].shape for size in ((64, 32), (32, 64)))
    if wide != high:
        raise ConfigError(
            f"{folder}: the image processor makes {wide[1:]} px of a wide image and {high[1:]} px of a high one; "
            "expected one size for all images. Set size or crop_size in its preprocessor_config.json."
        )
    return processor


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
