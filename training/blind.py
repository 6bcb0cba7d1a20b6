"""A model that does not look: what it says with the mean prefix in place of each image's own.

Shapes: B images, P patches, V vision width, K prefix length, D LM width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.prefix_model import PrefixModel


class MeanPrefix(nn.Module):
    """A mapper that gives every image the same prefix."""

    prefix_KD: Tensor

    def __init__(self, prefix_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("prefix_KD", prefix_KD, persistent=False)

    def forward(self, patches_BPV: Tensor) -> Tensor:
        return self.prefix_KD.expand(len(patches_BPV), -1, -1)


def blinded(model: PrefixModel, batches: Iterable[Tensor]) -> PrefixModel:
    """The model with the mean prefix of these images, given as patches [B, P, V]. All else is shared with `model`."""
    total, count = None, 0
    autocast = torch.autocast(model.lead.device.type, torch.bfloat16, enabled=model.config.precision == "bf16")
    with torch.inference_mode(), autocast:
        for patches_BPV in batches:
            sum_KD = model.mapper(patches_BPV.float()).double().sum(dim=0)
            total = sum_KD if total is None else total + sum_KD
            count += len(patches_BPV)
    assert total is not None, "an evaluation has at least two images"
    blind = copy.copy(model)
    blind.__dict__["_modules"] = {**model._modules, "mapper": MeanPrefix((total / count).float())}
    return blind
