"""Two vectors that agree: of an image, from its locked features; of a text, from a tower that is trained.

Shapes: I images, X texts, P patches, V vision width, T tokens, D text width, E shared width, O objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import ConfigError
from training.config import TrainConfig
from training.losses import Losses
from training.objectives.contrast import ContrastLoss, Pairs
from training.regimes.config import LitRegime

if TYPE_CHECKING:
    from training.lit.text_tower import TextTower


@dataclass(frozen=True)
class LitBatch:
    """This rank's whole share of a global batch: negatives come from all images and texts of all ranks."""

    patches_IPV: Tensor
    tokens_XT: Tensor
    mask_XT: Tensor
    image_of_text_X: Tensor
    text_id_X: Tensor
    weight_X: Tensor
    scale: Tensor
    """Scalar: the objective's weight over that of all texts of the global batch."""

    def to(self, device: torch.device) -> LitBatch:
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)
        }
        return replace(self, **moved)


class LitModel(nn.Module):
    """A text tower (`lm`) and a projection behind each side, trained with a contrast loss."""

    def __init__(self, config: TrainConfig, tower: TextTower, vision_width: int) -> None:
        super().__init__()
        assert isinstance(config.regime, LitRegime) and config.objectives.contrast is not None
        self.regime, contrast = config.regime, config.objectives.contrast
        self.autocast = config.precision == "bf16"
        self.lm = tower.model
        _fit_pooler(tower, self.regime.text_pooling)
        self.lm.requires_grad_(self.regime.learning_rate is not None)
        self.text_projection = nn.Linear(tower.width, contrast.width, bias=False)
        self.image_projection = _image_projection(self.regime, vision_width, contrast.width)
        self.loss = ContrastLoss(contrast.loss)

    def train(self, mode: bool = True) -> LitModel:
        """A locked text tower stays in eval mode: its dropout would be noise in a frozen function."""
        super().train(mode)
        self.lm.train(mode and self.regime.learning_rate is not None)
        return self

    def forward(self, batch: LitBatch) -> Losses:
        """One objective: `contrast`."""
        image_IE = self.image_vectors(batch.patches_IPV)
        text_XE = self.text_vectors(batch.tokens_XT, batch.mask_XT)
        pairs = Pairs(batch.image_of_text_X, batch.text_id_X, batch.weight_X)
        part = self.loss(image_IE, text_XE, pairs)
        return Losses(part * batch.scale, part.detach()[None], batch.weight_X.sum()[None])

    def image_vectors(self, patches_IPV: Tensor) -> Tensor:
        """float32[I, E] of length 1, from float16 or float32 patches."""
        pooled_IV = patches_IPV.float().mean(dim=1)
        return functional.normalize(self.image_projection(pooled_IV), dim=-1)

    def text_vectors(self, tokens_XT: Tensor, mask_XT: Tensor) -> Tensor:
        """float32[X, E] of length 1. `mask_XT` is 0 behind the end of a text."""
        with torch.autocast(tokens_XT.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.lm(input_ids=tokens_XT, attention_mask=mask_XT)
        pooled_XD = pooled(output, mask_XT, self.regime.text_pooling)
        return functional.normalize(self.text_projection(pooled_XD.float()), dim=-1)


def pooled(output: Any, mask_XT: Tensor, pooling: str) -> Tensor:
    """[X, D] of a text model's output."""
    hidden_XTD: Tensor = output.last_hidden_state
    if pooling == "pooler":
        pooler_XD: Tensor = output.pooler_output
        return pooler_XD
    if pooling == "first":
        return hidden_XTD[:, 0]
    if pooling == "last":
        return hidden_XTD[torch.arange(len(mask_XT), device=mask_XT.device), mask_XT.sum(dim=1) - 1]
    weight_XT1 = mask_XT[:, :, None].to(hidden_XTD.dtype)
    return (hidden_XTD * weight_XT1).sum(dim=1) / weight_XT1.sum(dim=1)


def build_lit_model(config: TrainConfig, tower: TextTower, vision_width: int) -> LitModel:
    """A fresh model around the tower; the projections' weights are a function of the seed. Changes the tower's model:
    what is trained is marked in place, and in train mode. Raises ConfigError where widths do not fit."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return LitModel(config, tower, vision_width).train()


def _fit_pooler(tower: TextTower, pooling: str) -> None:
    """A pooler that is not used goes: it would never get a gradient."""
    if pooling != "pooler" and getattr(tower.model, "pooler", None) is not None:
        tower.model.pooler = None
    if pooling == "pooler" and not tower.has_pooler:
        raise ConfigError(
            f"{tower.folder}: regime.text_pooling is pooler, and this text tower has none; expected mean, last or "
            "first. Change this value."
        )


def _image_projection(regime: LitRegime, vision_width: int, width: int) -> nn.Module:
    if regime.image_projection == "linear":
        return nn.Linear(vision_width, width)
    if vision_width != width:
        raise ConfigError(
            f"objectives.contrast.width is {width} with regime.image_projection none; expected the vision tower's "
            f"width {vision_width}, since nothing changes it. Set the width to it, or image_projection to linear."
        )
    return nn.Identity()
