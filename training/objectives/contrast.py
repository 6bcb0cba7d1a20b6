"""Contrast of images and texts, with the negatives of all ranks.

Shapes: I images and X texts of this rank, J images and Y texts of all ranks, R ranks, N rows, E shared width.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

ContrastKind = Literal["siglip", "infonce"]
START = {"siglip": (math.log(10.0), -10.0), "infonce": (math.log(1 / 0.07), 0.0)}
"""Log-temperature and bias of the first step, as in the papers."""
MAX_TEMPERATURE = 100.0
"""CLIP's bound for InfoNCE: beyond it the training becomes unstable."""


class Pairs(NamedTuple):
    """Which text belongs to which image."""

    image_of_text_X: Tensor
    """int64: row of the text's image."""
    text_id_X: Tensor
    """int64: texts that read the same have the same number, on all ranks. They are positives of each other's images:
    the captions of many photos are equal, and so are the prompts of one class."""
    weight_X: Tensor
    """float32: 0 is padding. An image whose texts all weigh 0 is padding too."""


class ContrastLoss(nn.Module):
    """Learns a temperature, and for SigLIP a bias. s_xj = exp(log_temperature) · ⟨text x, image j⟩; P(x) are the images
    that have a text reading as x does, P(j) the texts that read as one of image j's; padding counts nowhere.

    siglip (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"):
        loss_x = Σ_j −log σ(z_xj (s_xj + bias)),  z_xj = +1 where j ∈ P(x), else −1
    infonce (Radford et al. 2021, "CLIP"; several positives as L_out of Khosla et al. 2020, "SupCon"):
        loss_x = ½ mean_{j ∈ P(x)} −log softmax_j(s_xj) + ½ mean_{y ∈ P(i)} −log softmax_y(s_yi),  i the image of x,
        the second mean weighted by the texts' weights
    """

    def __init__(self, kind: ContrastKind) -> None:
        super().__init__()
        self.kind = kind
        log_temperature, bias = START[kind]
        self.log_temperature = nn.Parameter(torch.tensor([log_temperature]))
        self.bias = nn.Parameter(torch.tensor([bias])) if kind == "siglip" else None

    def forward(self, image_IE: Tensor, text_XE: Tensor, pairs: Pairs) -> Tensor:
        """Scalar: Σ_x weight_x loss_x over this rank's texts, from vectors of length 1. The sum over all ranks is what
        one rank computes of the whole batch, and so are the gradients. Every rank has to call it, and to go backward
        where another does."""
        with torch.autocast(image_IE.device.type, enabled=False):
            everyone = _Everyone(len(image_IE), pairs)
            losses = self._siglip if self.kind == "siglip" else self._infonce
            return pairs.weight_X @ losses(image_IE.float(), text_XE.float(), everyone)

    def _siglip(self, image_IE: Tensor, text_XE: Tensor, everyone: _Everyone) -> Tensor:
        assert self.bias is not None
        logits_XJ = self.log_temperature.exp() * text_XE @ everyone.images(image_IE).T + self.bias
        signs_XJ = everyone.positive_XJ * 2.0 - 1.0
        return -(functional.logsigmoid(signs_XJ * logits_XJ) * everyone.counts_J).sum(dim=1)

    def _infonce(self, image_IE: Tensor, text_XE: Tensor, everyone: _Everyone) -> Tensor:
        image_JE, text_YE = everyone.images(image_IE), everyone.texts(text_XE)
        temperature = self.log_temperature.exp().clamp(max=MAX_TEMPERATURE)
        text_X = _cross_entropy(temperature * text_XE @ image_JE.T, everyone.positive_XJ.float(), everyone.counts_J)
        target_IY = everyone.positive_IY * everyone.weight_Y
        image_I = _cross_entropy(temperature * image_IE @ text_YE.T, target_IY, everyone.weight_Y > 0)
        return 0.5 * (text_X + image_I[everyone.own.image_of_text_X])


class _Everyone:
    """What this rank has to know of all ranks' pairs, and the way to their vectors."""

    def __init__(self, num_images: int, own: Pairs) -> None:
        device = own.weight_X.device
        self.own = own
        self._images_R, self._texts_R = _counts(num_images, len(own.weight_X), device)
        image_of_Y = self.texts(own.image_of_text_X + sum(self._images_R[: _rank()]))
        self.weight_Y = self.texts(own.weight_X)
        same_XY = ((own.text_id_X[:, None] == self.texts(own.text_id_X)) & (self.weight_Y > 0)).float()
        weight_J = torch.zeros(sum(self._images_R), device=device).index_add_(0, image_of_Y, self.weight_Y)
        self.counts_J = weight_J > 0
        images_XJ = torch.zeros(len(same_XY), len(weight_J), device=device)
        self.positive_XJ = images_XJ.index_add_(1, image_of_Y, same_XY) > 0
        texts_IY = torch.zeros(num_images, len(self.weight_Y), device=device)
        counted_XY = same_XY * (own.weight_X > 0)[:, None]
        self.positive_IY = texts_IY.index_add_(0, own.image_of_text_X, counted_XY) > 0

    def images(self, own_I: Tensor) -> Tensor:
        """Rows of all ranks' images, from those of this rank's."""
        return _gathered(own_I, self._images_R)

    def texts(self, own_X: Tensor) -> Tensor:
        return _gathered(own_X, self._texts_R)


def _cross_entropy(logits_NM: Tensor, target_NM: Tensor, counts_M: Tensor) -> Tensor:
    """[N]: −log softmax over the columns that count, averaged by the targets' weights; 0 where there is no target."""
    logits_NM = logits_NM.masked_fill(~counts_M, torch.finfo(logits_NM.dtype).min)
    share_NM = target_NM / target_NM.sum(dim=1, keepdim=True).clamp(min=torch.finfo(target_NM.dtype).tiny)
    return -(share_NM * functional.log_softmax(logits_NM, dim=1)).sum(dim=1)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _counts(num_images: int, num_texts: int, device: torch.device) -> list[list[int]]:
    """Images of each rank, texts of each rank."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [[num_images], [num_texts]]
    own_2 = torch.tensor([num_images, num_texts], device=device)
    parts = [torch.empty_like(own_2) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own_2)
    return torch.stack(parts, dim=1).tolist()


def _gathered(own_N: Tensor, counts_R: list[int]) -> Tensor:
    """The rows of all ranks in the order of ranks. Gradients come back from every rank."""
    if len(counts_R) == 1:
        return own_N
    gathered: Tensor = _Gather.apply(own_N, counts_R)  # type: ignore[no-untyped-call]  # torch's own
    return gathered


class _Gather(torch.autograd.Function):
    """Ranks hold unequal numbers of rows, and a collective takes equal ones: they are padded on the way."""

    @staticmethod
    def forward(ctx: Any, own_N: Tensor, counts_R: list[int]) -> Tensor:
        ctx.counts_R = counts_R
        padded = own_N.new_zeros(max(counts_R), *own_N.shape[1:])
        padded[: len(own_N)] = own_N
        parts = [torch.empty_like(padded) for _ in counts_R]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts_R, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        start = sum(ctx.counts_R[: _rank()])
        return summed[start : start + ctx.counts_R[_rank()]], None
