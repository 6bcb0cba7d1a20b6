"""Bottleneck adapters (Houlsby et al. 2019), one after each decoder layer.

Shapes: B rows, L positions, D LM width, W bottleneck width.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from training.layers import decoder_layers
from training.regimes.config import AdapterRegime


class Adapter(nn.Module):
    """x + up(gelu(down(norm(x)))), the identity at the start."""

    def __init__(self, lm_width: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(lm_width, width)
        self.up = nn.Linear(width, lm_width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """In the input's dtype."""
        # Normalised, because the scale of hidden states differs between layers and families by orders of magnitude.
        normed_BLD = functional.layer_norm(hidden_BLD.float(), hidden_BLD.shape[-1:])
        added_BLD: Tensor = self.up(functional.gelu(self.down(normed_BLD)))
        return hidden_BLD + added_BLD.to(hidden_BLD.dtype)


def inject_adapters(config: AdapterRegime, language_model: Any) -> None:
    """Each decoder layer gets a module `adapter`. Raises ConfigError where the model has no decoder layers."""
    for layer in decoder_layers(language_model):
        adapter = Adapter(language_model.config.hidden_size, config.width)
        layer.add_module("adapter", adapter.to(next(layer.parameters()).device))
        layer.register_forward_hook(_adapt)


def _adapt(layer: Any, _inputs: Any, output: Any) -> Any:
    """Layers return hidden states, some in a tuple with what else they computed."""
    if isinstance(output, tuple):
        return (layer.adapter(output[0]), *output[1:])
    return layer.adapter(output)
