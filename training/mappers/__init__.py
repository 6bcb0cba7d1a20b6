"""Trained modules that turn patch features into a prefix. One file each; `build_mapper` picks by the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.mappers.config import LinearConfig, MapperConfig, MlpConfig, ResamplerConfig

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
    """A module float32[B, P, V] -> float32[B, K, D], initialised from torch's generator.

    Raises ConfigError where the mapper cannot stand between these two models."""
    if isinstance(config, LinearConfig):
        from training.mappers.linear import LinearMapper

        return LinearMapper(config, shape)
    if isinstance(config, MlpConfig):
        from training.mappers.mlp import MlpMapper

        return MlpMapper(config, shape)
    if isinstance(config, ResamplerConfig):
        from training.mappers.resampler import ResamplerMapper

        return ResamplerMapper(config, shape)
    from training.mappers.transformer import TransformerMapper

    return TransformerMapper(config, shape)
