"""BitFit (Ben Zaken et al. 2021): the language model's biases, and its norms' gains if asked for."""

from torch import nn

from infra.errors import ConfigError
from training.regimes.config import BitfitRegime


def train_vectors(config: BitfitRegime, language_model: nn.Module) -> None:
    """Mark them. Raises ConfigError where the model has none."""
    for module in language_model.modules():
        vectors = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 1]
        biases = [parameter for parameter in vectors if parameter is getattr(module, "bias", None)]
        for parameter in vectors if config.norms else biases:
            parameter.requires_grad_(True)
        if biases and len(vectors) > len(biases):
            # A norm's gain and bias have to agree in dtype; the trained bias is fp32.
            for parameter in vectors:
                parameter.data = parameter.data.float()
    if not any(parameter.requires_grad for parameter in language_model.parameters()):
        remedy = "Use regime kind `lora` or `adapter`" + ("" if config.norms else ", or set regime.norms to true")
        raise ConfigError(
            f"regime bitfit finds no {'vectors' if config.norms else 'biases'} in {type(language_model).__name__}; "
            f"expected at least one to train. {remedy}."
        )
