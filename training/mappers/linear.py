"""The linear mapper: K vectors from the mean patch, or one vector from each patch (LLaVA 1, Liu et al. 2023).

Shapes: B images, P patches, V vision width, I vectors that are read (1 or P), K prefix length, D LM width.
"""

from torch import Tensor, nn

from infra.errors import ConfigError
from training.mappers import MapperShape
from training.mappers.config import LinearConfig


class LinearMapper(nn.Module):
    """Normalised patches or their mean through one matrix."""

    def __init__(self, config: LinearConfig, shape: MapperShape) -> None:
        super().__init__()
        self.per_patch = config.pooling == "patches"
        if self.per_patch and config.prefix_tokens != shape.num_patches:
            raise ConfigError(
                f"mapper.prefix_tokens is {config.prefix_tokens}; expected {shape.num_patches}, the vision tower's "
                f"number of patches, because pooling `patches` makes one vector of each. Set it to "
                f"{shape.num_patches}, or mapper.pooling to `mean`."
            )
        self.lm_width, self.output_scale = shape.lm_width, shape.embedding_scale
        num_outputs = 1 if self.per_patch else config.prefix_tokens
        self.norm = nn.LayerNorm(shape.vision_width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(shape.vision_width, num_outputs * shape.lm_width)
        nn.init.normal_(self.output.weight, std=shape.vision_width**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, patches_BPV: Tensor) -> Tensor:
        """float32[B, K, D]."""
        input_BIV = patches_BPV if self.per_patch else patches_BPV.mean(dim=1, keepdim=True)
        prefix_BKD: Tensor = self.output(self.dropout(self.norm(input_BIV))).unflatten(-1, (-1, self.lm_width))
        return self.output_scale * prefix_BKD.flatten(1, 2)
