"""Prefix sharing: all targets of an image stand behind one copy of its prefix.

    [lead][prefix K][branch 1: prompt, target][branch 2: prompt, target]...

A branch sees lead and prefix and itself; its positions go on from the prefix's. The loss and the gradients are those
of one sequence per target. Logits are computed at target positions only.
Shapes: B images, P patches, V vision width, S = lead + K shared positions, T branch tokens, L = S + T, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_BRANCH = -1


@dataclass(frozen=True)
class Branch:
    """One target of an image, tokenised."""

    example_id: str
    objective: int
    """Index into the objectives that are trained together."""
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    """With the end token, unless the target was cut."""
    weight: float

    @property
    def num_inputs(self) -> int:
        """Positions it takes: the last target token is predicted, never read."""
        return len(self.prompt_ids) + len(self.target_ids) - 1


@dataclass(frozen=True)
class PackedImage:
    """One image and the branches behind its prefix."""

    image_id: str
    branches: tuple[Branch, ...]

    @property
    def num_inputs(self) -> int:
        return sum(branch.num_inputs for branch in self.branches)

    @property
    def weighted_targets(self) -> float:
        return sum(branch.weight * len(branch.target_ids) for branch in self.branches)

    @property
    def num_targets(self) -> int:
        return sum(len(branch.target_ids) for branch in self.branches)


@dataclass(frozen=True)
class PackedBatch:
    """A micro batch as tensors."""

    patches_BPV: Tensor
    tokens_BT: Tensor
    branch_BT: Tensor
    """Number of the branch a token belongs to; NO_BRANCH where a row is padded."""
    positions_BT: Tensor
    """Counted from the first position after the prefix."""
    target_row_N: Tensor
    target_place_N: Tensor
    """Where the target is predicted, counted from the last shared position: 0 is the end of the prefix."""
    target_N: Tensor
    weight_N: Tensor
    objective_N: Tensor

    def to(self, device: torch.device) -> PackedBatch:
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)
        }
        return replace(self, **moved)


def pack(images: Sequence[PackedImage], patches_BPV: NDArray[np.float16]) -> PackedBatch:
    """Rows padded to the longest of these images. Raises nothing: lengths were checked when tokenising."""
    rows = [_row(image) for image in images]
    num_tokens = max([len(tokens) for tokens, _, _ in rows] + [1])
    shape = (len(images), num_tokens)
    tokens_BT, positions_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    branch_BT = torch.full(shape, NO_BRANCH, dtype=torch.long)
    for row, (tokens, branches, positions) in enumerate(rows):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        branch_BT[row, : len(tokens)] = torch.tensor(branches, dtype=torch.long)
        positions_BT[row, : len(tokens)] = torch.tensor(positions, dtype=torch.long)
    targets = [target for row, image in enumerate(images) for target in _targets(row, image)]
    numbers_N4 = torch.tensor([target[:4] for target in targets], dtype=torch.long).reshape(-1, 4)
    return PackedBatch(
        patches_BPV=torch.from_numpy(patches_BPV).float(),
        tokens_BT=tokens_BT,
        branch_BT=branch_BT,
        positions_BT=positions_BT,
        target_row_N=numbers_N4[:, 0],
        target_place_N=numbers_N4[:, 1],
        target_N=numbers_N4[:, 2],
        objective_N=numbers_N4[:, 3],
        weight_N=torch.tensor([target[4] for target in targets], dtype=torch.float32),
    )


def _row(image: PackedImage) -> tuple[list[int], list[int], list[int]]:
    tokens: list[int] = []
    branches: list[int] = []
    positions: list[int] = []
    for number, branch in enumerate(image.branches):
        tokens += (branch.prompt_ids + branch.target_ids)[:-1]
        branches += [number] * branch.num_inputs
        positions += range(branch.num_inputs)
    return tokens, branches, positions


def _targets(row: int, image: PackedImage) -> list[tuple[int, int, int, int, float]]:
    """(row, place, token, objective, weight) of every target token."""
    found = []
    start = 0
    for branch in image.branches:
        for number, token in enumerate(branch.target_ids):
            offset = len(branch.prompt_ids) + number
            # The first token after an empty prompt is predicted by the end of the prefix.
            place = start + offset if offset else 0
            found.append((row, place, token, branch.objective, branch.weight))
        start += branch.num_inputs
    return found


def shared_mask(branch_BT: Tensor, num_shared: int, dtype: torch.dtype) -> Tensor:
    """Additive [B, 1, L, L]: causal, and between branches nothing. Padding sees only itself and the prefix."""
    num_images, num_tokens = branch_BT.shape
    shared_BS = branch_BT.new_full((num_images, num_shared), NO_BRANCH - 1)
    branch_BL = torch.cat([shared_BS, branch_BT], dim=1)
    same_BLL = branch_BL[:, :, None] == branch_BL[:, None, :]
    same_BLL[:, :, :num_shared] = True
    length = num_shared + num_tokens
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=branch_BT.device).tril()
    blocked_BLL = ~(same_BLL & causal_LL)
    mask = torch.zeros(blocked_BLL.shape, dtype=dtype, device=branch_BT.device)
    return mask.masked_fill_(blocked_BLL, torch.finfo(dtype).min)[:, None]


def positions(positions_BT: Tensor, num_shared: int) -> Tensor:
    """[B, L]: lead and prefix counted from 0, each branch from the first position behind them."""
    shared_BS = torch.arange(num_shared, device=positions_BT.device).expand(len(positions_BT), -1)
    return torch.cat([shared_BS, positions_BT + num_shared], dim=1)
