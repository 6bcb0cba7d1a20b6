"""A micro batch as tensors, and who sees whom in it.

Shapes: B images, P patches, V vision width, R rows, L row length, N target tokens, M reads of one head, U numbers of
one read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", "HeadReads", "PackedBatch")
PAD, LEAD, PREFIX, FIRST_TEXT = -1, 0, 1, 2
"""Kinds of a position within its image; prompts and targets count on from the last."""


@dataclass(frozen=True)
class HeadReads:
    """Where one head reads, and what it is compared with."""

    row_M: Tensor
    place_M: Tensor
    image_M: Tensor
    """Number of the image in the micro batch."""
    values_MU: Tensor
    weight_M: Tensor

    def to(self, device: torch.device) -> HeadReads:
        return _moved(self, device)


@dataclass(frozen=True)
class PackedBatch:
    """A micro batch as tensors."""

    patches_BPV: Tensor
    view_BPV: Tensor | None
    """The same images as another stored view, where a regulariser wants it."""
    image_row_B: Tensor
    image_place_B: Tensor
    """Where an image's shared positions begin."""
    tokens_RL: Tensor
    image_RL: Tensor
    """Number of the image within its row; PAD behind the last."""
    kind_RL: Tensor
    """LEAD, PREFIX, or FIRST_TEXT + the number of the prompt or target within its image."""
    prompt_RL: Tensor
    """The kind of the prompt that a position sees besides its own kind; elsewhere its own kind."""
    blind_RL: Tensor
    positions_RL: Tensor
    target_row_N: Tensor
    target_place_N: Tensor
    """Where the target token is predicted."""
    target_N: Tensor
    weight_N: Tensor
    objective_N: Tensor
    reads: dict[int, HeadReads]
    """By objective that has a head."""
    scale_O: Tensor
    """Objective's weight over what it weighs in the global batch: turns sums of losses into parts of the loss."""

    def to(self, device: torch.device) -> PackedBatch:
        return _moved(self, device)


def _moved(of: T, device: torch.device) -> T:
    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: inner.to(device) for key, inner in value.items()}
        return value if value is None else value.to(device, non_blocking=True)

    return replace(of, **{field.name: move(getattr(of, field.name)) for field in fields(of)})


def block_mask(batch: PackedBatch, dtype: torch.dtype) -> Tensor:
    """Additive [R, 1, L, L]: causal within an image; between targets nothing; padding sees padding."""
    image_RL, kind_RL = batch.image_RL, batch.kind_RL
    same_image_RLL = image_RL[:, :, None] == image_RL[:, None, :]
    same_kind_RLL = kind_RL[:, :, None] == kind_RL[:, None, :]
    is_prompt_RLL = kind_RL[:, None, :] == batch.prompt_RL[:, :, None]
    is_prefix_RLL = (kind_RL == PREFIX)[:, None, :] & ~batch.blind_RL[:, :, None]
    allowed_RLL = same_image_RLL & (same_kind_RLL | is_prompt_RLL | (kind_RL == LEAD)[:, None, :] | is_prefix_RLL)
    allowed_RLL = allowed_RLL.tril()
    mask_RLL = torch.zeros(allowed_RLL.shape, dtype=dtype, device=image_RL.device)
    return mask_RLL.masked_fill_(~allowed_RLL, torch.finfo(dtype).min)[:, None]
