"""ClipCap's transformer mapper (Mokady et al. 2021): K learned constants read the patches.

Shapes: B images, P patches, V vision width, W mapper width, L = P + K, K prefix length, D LM width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.mappers import MapperShape
from training.mappers.config import TransformerConfig
from training.mappers.ends import PatchesIn, PrefixOut


class TransformerMapper(nn.Module):
    """Pre-norm transformer over [patches + positions; constants]; the constants' outputs are the prefix."""

    def __init__(self, config: TransformerConfig, shape: MapperShape) -> None:
        super().__init__()
        self.input = PatchesIn(config.width, shape)
        self.constants_KW = nn.Parameter(torch.randn(config.prefix_tokens, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.output = PrefixOut(config.width, shape)

    def forward(self, patches_BPV: Tensor) -> Tensor:
        """float32[B, K, D]."""
        patches_BPW = self.input(patches_BPV)
        constants_BKW = self.constants_KW.expand(len(patches_BPV), -1, -1)
        state_BLW = torch.cat([patches_BPW, constants_BKW], dim=1)
        for block in self.blocks:
            state_BLW = block(state_BLW)
        prefix_BKD: Tensor = self.output(state_BLW[:, -len(self.constants_KW) :])
        return prefix_BKD


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(width)
        # Without bias: a key's bias has no gradient but rounding noise, which Adam scales up to full steps.
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, state_BLW: Tensor) -> Tensor:
        state_BLW = state_BLW + self.dropout(self._attend(self.attention_norm(state_BLW)))
        added_BLW: Tensor = self.dropout(self.mlp(self.mlp_norm(state_BLW)))
        return state_BLW + added_BLW

    def _attend(self, state_BLW: Tensor) -> Tensor:
        split = self.query_key_value(state_BLW).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(split[0], split[1], split[2])
        mixed_BLW: Tensor = self.mix(heads.transpose(1, 2).flatten(2))
        return mixed_BLW
