"""The decoder layers of a language model, whatever its family."""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from infra.errors import ConfigError
from infra.settings import TrainResources


def decoder_layers(language_model: nn.Module) -> list[nn.Module]:
    """In order. Raises ConfigError where `transformers` marks none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in language_model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"{type(language_model).__name__} has no decoder layers that transformers marks as such; expected some, "
            "since adapters and gradient checkpointing work on them. Use another regime without gradient checkpointing."
        )
    return layers


def fuse_activations(language_model: nn.Module) -> None:
    """GPT-2's GELU as one kernel. `transformers` computes the same formula in eight, which read and write the widest
    activations of the model each time: a third of the activation's time is left, and a fraction of its memory."""
    from transformers.activations import FastGELUActivation, NewGELUActivation

    for module in list(language_model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def checkpoint_layers(language_model: nn.Module) -> None:
    """Gradient checkpointing: layers keep their input alone and are computed again in the backward pass.

    The same loss and gradients to the bit. Not by transformers' own switch: it works in train mode only, which would
    turn on the dropout of a frozen function, and this needs neither a mode nor inputs with gradients."""
    for layer in decoder_layers(language_model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def apply_resources(transformer: Any, resources: TrainResources) -> None:
    """What the profile says of the forward pass of a transformer: less memory, or compiled."""
    if resources.gradient_checkpointing:
        checkpoint_layers(transformer)
    if resources.compile:
        transformer.compile(dynamic=True)
