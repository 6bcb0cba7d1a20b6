"""Prefix sharing: all targets of an image stand behind one copy of its prefix, and short images share a row.

    [soft prompt, lead][prefix K][branch 1: prompt, target][branch 2: prompt, target]... [next image]...

A branch sees its image's shared positions and itself; its positions go on from the prefix's. Loss and gradients are
those of one sequence per target. A blind branch (a text that is compared with the image) does not see the prefix.
Shapes: B images, P patches, V vision width, S = lead + K shared positions, R rows, L row length, N target tokens,
M reads of one head, U numbers of one read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T", "HeadReads", "PackedBatch")
PAD, LEAD, PREFIX, FIRST_BRANCH = -1, 0, 1, 2
"""Kinds of a position within its image; branches count on from the last."""


@dataclass(frozen=True)
class Branch:
    """One text behind an image's prefix, tokenised."""

    example_id: str
    objective: int
    """Its number in O."""
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    """With the end token, unless the target was cut. Empty where a head reads at the end of the prompt."""
    weight: float
    values: tuple[float, ...] = ()
    """What the head's output is compared with."""
    sees_image: bool = True

    @property
    def num_inputs(self) -> int:
        """Positions it takes: the last target token is predicted, never read."""
        return len(self.prompt_ids) + max(0, len(self.target_ids) - 1)

    @property
    def num_terms(self) -> int:
        """Losses it gives: one per target token, or one."""
        return len(self.target_ids) or 1


@dataclass(frozen=True)
class PackedImage:
    """One image and the branches behind its prefix."""

    image_id: str
    branches: tuple[Branch, ...]

    @property
    def num_inputs(self) -> int:
        return sum(branch.num_inputs for branch in self.branches)

    @property
    def num_targets(self) -> int:
        return sum(len(branch.target_ids) for branch in self.branches)

    def weights(self, num_objectives: int) -> list[float]:
        """What its losses weigh, by objective."""
        found = [0.0] * num_objectives
        for branch in self.branches:
            found[branch.objective] += branch.weight * branch.num_terms
        return found


class Layout(NamedTuple):
    """What stands before every branch."""

    lead: int
    """Positions that even blind branches see: soft prompt and lead."""
    prefix: int
    shares: bool = True
    """False where the language model takes no block mask: then every branch has a prefix and a row of its own."""

    @property
    def shared(self) -> int:
        return self.lead + self.prefix

    def length(self, image: PackedImage) -> int:
        return self.shared + image.num_inputs

    def rows(self, images: Sequence[PackedImage]) -> list[list[int]]:
        """Which images stand in which row."""
        if not self.shares:
            return [[number] for number in range(len(images))]
        return rows_of([self.length(image) for image in images])


class BatchObjectives(NamedTuple):
    """What a micro batch has to know about objectives."""

    scale_O: tuple[float, ...]
    heads: tuple[int, ...]
    """Numbers of those with a head. Each reads in every micro batch, if only nothing, so that all ranks have gradients
    of the same parameters and join the same collectives."""


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
    """LEAD, PREFIX, or FIRST_BRANCH + the branch's number within its image."""
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


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """Items put together into rows no longer than the longest item: first fit, longest first."""
    capacity = max(lengths, default=0)
    rows: list[list[int]] = []
    free: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        place = next((row for row, room in enumerate(free) if room >= lengths[item]), len(rows))
        if place == len(rows):
            rows.append([])
            free.append(capacity)
        rows[place].append(item)
        free[place] -= lengths[item]
    return rows


def apart(image: PackedImage) -> list[PackedImage]:
    """The same branches, each behind a prefix of its own: for language models that cannot share one."""
    return [replace(image, branches=(branch,)) for branch in image.branches]


def pack(
    images: Sequence[PackedImage],
    patches_BPV: NDArray[np.float16],
    layout: Layout,
    objectives: BatchObjectives,
    view_BPV: NDArray[np.float16] | None = None,
) -> PackedBatch:
    """Rows padded to the longest image. Raises nothing: lengths were checked when tokenising."""
    rows = layout.rows(images)
    length = max(layout.length(image) for image in images)
    filler = _Filler((len(rows), length), len(images), layout, objectives)
    for row, members in enumerate(rows):
        place = 0
        for number, member in enumerate(members):
            filler.put(images[member], member, (row, number, place))
            place += layout.length(images[member])
    return filler.batch(patches_BPV, view_BPV)


class _Filler:
    """Arrays of one micro batch while images are put into them."""

    def __init__(self, shape: tuple[int, int], num_images: int, layout: Layout, objectives: BatchObjectives) -> None:
        import numpy as np

        self.layout, self.objectives = layout, objectives
        self.tokens, self.positions = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        self.image, self.kind = (np.full(shape, PAD, dtype=np.int64) for _ in range(2))
        self.blind = np.zeros(shape, dtype=bool)
        self.starts = np.zeros((2, num_images), dtype=np.int64)
        self.targets: list[tuple[int, int, int, int]] = []
        self.weights: list[float] = []
        self.reads: dict[int, list[_Read]] = {number: [] for number in objectives.heads}

    def put(self, image: PackedImage, member: int, at: tuple[int, int, int]) -> None:
        row, number, start = at
        lead, shared = self.layout.lead, self.layout.shared
        self.starts[:, member] = row, start
        self.image[row, start : start + self.layout.length(image)] = number
        self.kind[row, start : start + lead] = LEAD
        self.kind[row, start + lead : start + shared] = PREFIX
        self.positions[row, start : start + shared] = range(shared)
        place = start + shared
        for branch_number, branch in enumerate(image.branches):
            end = place + branch.num_inputs
            self.tokens[row, place:end] = (branch.prompt_ids + branch.target_ids)[: branch.num_inputs]
            self.kind[row, place:end] = FIRST_BRANCH + branch_number
            self.blind[row, place:end] = not branch.sees_image
            first = shared if branch.sees_image else lead
            self.positions[row, place:end] = range(first, first + branch.num_inputs)
            # What precedes the branch's first token is the end of the prefix, wherever the branch lies.
            before = [start + shared - 1, *range(place, end)]
            prompt = len(branch.prompt_ids)
            self.targets += [
                (row, before[prompt + nth], token, branch.objective) for nth, token in enumerate(branch.target_ids)
            ]
            self.weights += [branch.weight] * len(branch.target_ids)
            if not branch.target_ids:
                read = (row, before[prompt], member, branch.values, branch.weight)
                self.reads[branch.objective].append(read)
            place = end

    def batch(self, patches_BPV: NDArray[np.float16], view_BPV: NDArray[np.float16] | None) -> PackedBatch:
        numbers_N4 = torch.tensor(self.targets, dtype=torch.long).reshape(-1, 4)
        return PackedBatch(
            patches_BPV=torch.from_numpy(patches_BPV).float(),
            view_BPV=None if view_BPV is None else torch.from_numpy(view_BPV).float(),
            image_row_B=torch.from_numpy(self.starts[0]),
            image_place_B=torch.from_numpy(self.starts[1]),
            tokens_RL=torch.from_numpy(self.tokens),
            image_RL=torch.from_numpy(self.image),
            kind_RL=torch.from_numpy(self.kind),
            blind_RL=torch.from_numpy(self.blind),
            positions_RL=torch.from_numpy(self.positions),
            target_row_N=numbers_N4[:, 0],
            target_place_N=numbers_N4[:, 1],
            target_N=numbers_N4[:, 2],
            objective_N=numbers_N4[:, 3],
            weight_N=torch.tensor(self.weights, dtype=torch.float32),
            reads={objective: _head_reads(found) for objective, found in self.reads.items()},
            scale_O=torch.tensor(self.objectives.scale_O, dtype=torch.float32),
        )


_Read = tuple[int, int, int, tuple[float, ...], float]
"""(row, place, image, values, weight)"""


def _head_reads(found: list[_Read]) -> HeadReads:
    places_M3 = torch.tensor([read[:3] for read in found], dtype=torch.long).reshape(-1, 3)
    num_values = len(found[0][3]) if found else 1
    return HeadReads(
        row_M=places_M3[:, 0],
        place_M=places_M3[:, 1],
        image_M=places_M3[:, 2],
        values_MU=torch.tensor([read[3] for read in found], dtype=torch.float32).reshape(len(found), num_values),
        weight_M=torch.tensor([read[4] for read in found], dtype=torch.float32),
    )


def block_mask(batch: PackedBatch, dtype: torch.dtype) -> Tensor:
    """Additive [R, 1, L, L]: causal within an image; between branches nothing; padding sees padding."""
    image_RL, kind_RL = batch.image_RL, batch.kind_RL
    same_image_RLL = image_RL[:, :, None] == image_RL[:, None, :]
    same_kind_RLL = kind_RL[:, :, None] == kind_RL[:, None, :]
    is_prefix_RLL = (kind_RL == PREFIX)[:, None, :] & ~batch.blind_RL[:, :, None]
    allowed_RLL = same_image_RLL & (same_kind_RLL | (kind_RL == LEAD)[:, None, :] | is_prefix_RLL)
    allowed_RLL = allowed_RLL.tril()
    mask_RLL = torch.zeros(allowed_RLL.shape, dtype=dtype, device=image_RL.device)
    return mask_RLL.masked_fill_(~allowed_RLL, torch.finfo(dtype).min)[:, None]
