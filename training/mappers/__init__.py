"""Trained modules that turn patch features into a prefix. One file each; `build_mapper` picks by the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.mappers.config import MapperConfig, MlpConfig, TransformerConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MapperShape:
    """What a mapper stands between."""

    num_patches: int
    vision_width: int
    lm_width: int
    embedding_scale: float
    """Standard deviation of the language model's token embeddings: where prefix vectors start."""


def build_mapper(config: MapperConfig, shape: MapperShape) -> nn.Module:
    """A module float32[B, P, V] -> float32[B, K, D], initialised from torch's generator."""
    if isinstance(config, MlpConfig):
        from training.mappers.mlp import MlpMapper

        return MlpMapper(config, shape)
    assert isinstance(config, TransformerConfig)
    from training.mappers.transformer import TransformerMapper

    return TransformerMapper(config, shape)
