"""ClipCap's MLP mapper (Mokady et al. 2021): one vector in, K vectors out.

Shapes: B images, P patches, V vision width, F input width (V or P * V), H hidden width, K prefix length, D LM width.
"""

from torch import Tensor, nn

from training.mappers import MapperShape
from training.mappers.config import MlpConfig


class MlpMapper(nn.Module):
    """Patches pooled or flattened, normalised, through one hidden layer."""

    def __init__(self, config: MlpConfig, shape: MapperShape) -> None:
        super().__init__()
        self.flatten = config.pooling == "flatten"
        self.prefix_tokens, self.lm_width = config.prefix_tokens, shape.lm_width
        self.output_scale = shape.embedding_scale
        input_width = shape.vision_width * (shape.num_patches if self.flatten else 1)
        self.norm = nn.LayerNorm(input_width)
        self.hidden = nn.Linear(input_width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.width, config.prefix_tokens * shape.lm_width)
        nn.init.orthogonal_(self.hidden.weight)
        # tanh of a unit input has a root mean square near 0.63.
        nn.init.normal_(self.output.weight, std=1 / (0.63 * config.width**0.5))
        nn.init.zeros_(self.output.bias)

    def forward(self, patches_BPV: Tensor) -> Tensor:
        """float32[B, K, D]."""
        input_BF = patches_BPV.flatten(1) if self.flatten else patches_BPV.mean(dim=1)
        hidden_BH = self.dropout(self.hidden(self.norm(input_BF)).tanh())
        prefix_BKD: Tensor = self.output(hidden_BH).unflatten(1, (self.prefix_tokens, self.lm_width))
        return self.output_scale * prefix_BKD
