"""The Perceiver resampler (Jaegle et al. 2021, as in Flamingo, Alayrac et al. 2022): K learned latents read P patches.

Each layer attends from the latents over [patches; latents], so that its cost grows with P and not with its square.
Shapes: B images, P patches, V vision width, W mapper width, R = P + K, K prefix length, D LM width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.mappers import MapperShape
from training.mappers.config import ResamplerConfig
from training.mappers.ends import PatchesIn, PrefixOut


class ResamplerMapper(nn.Module):
    """The latents' last state is the prefix; the patches stay as they came in."""

    def __init__(self, config: ResamplerConfig, shape: MapperShape) -> None:
        super().__init__()
        self.input = PatchesIn(config.width, shape)
        self.latents_KW = nn.Parameter(torch.randn(config.prefix_tokens, config.width))
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.output = PrefixOut(config.width, shape)

    def forward(self, patches_BPV: Tensor) -> Tensor:
        """float32[B, K, D]."""
        patches_BPW = self.input(patches_BPV)
        latents_BKW = self.latents_KW.expand(len(patches_BPV), -1, -1)
        for layer in self.layers:
            latents_BKW = layer(latents_BKW, patches_BPW)
        prefix_BKD: Tensor = self.output(latents_BKW)
        return prefix_BKD


class _Layer(nn.Module):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.num_heads = config.num_heads
        # Patches and latents are normalised apart: they have scales of their own.
        self.patches_norm, self.latents_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # Without bias: a key's bias has no gradient but rounding noise, which Adam scales up to full steps.
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.mix = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, latents_BKW: Tensor, patches_BPW: Tensor) -> Tensor:
        queries_BKW = self.latents_norm(latents_BKW)
        read_BRW = torch.cat([self.patches_norm(patches_BPW), queries_BKW], dim=1)
        latents_BKW = latents_BKW + self.dropout(self._attend(queries_BKW, read_BRW))
        added_BKW: Tensor = self.dropout(self.mlp(self.mlp_norm(latents_BKW)))
        return latents_BKW + added_BKW

    def _attend(self, queries_BKW: Tensor, read_BRW: Tensor) -> Tensor:
        query_BHK = self.query(queries_BKW).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key_BHR, value_BHR = self.key_value(read_BRW).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heads_BHK = functional.scaled_dot_product_attention(query_BHK, key_BHR, value_BHR)
        mixed_BKW: Tensor = self.mix(heads_BHK.transpose(1, 2).flatten(2))
        return mixed_BKW
