"""Prefix sharing: all targets of an image stand behind one copy of its prefix, and short images share a row.

    [soft prompt, lead][prefix K][prompt 1][target][target]...[prompt 2][target]... [next image]...

Equal prompts of an image stand there once: ten answers share their question as they share the image. A target sees its
image's shared positions, its prompt and itself; its positions go on from the prompt's. Loss and gradients are those of
one sequence per target. A blind branch (a text that is compared with the image) does not see the prefix.
Shapes: B images, P patches, V vision width, S = lead + K shared positions, R rows, L row length, N target tokens,
M reads of one head, U numbers of one read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import torch

from training.packed_batch import FIRST_TEXT, LEAD, PAD, PREFIX, HeadReads, PackedBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


class Stem(NamedTuple):
    """A prompt, and the branches that go on from it."""

    prompt_ids: tuple[int, ...]
    sees_image: bool
    branches: list[Branch]


@dataclass(frozen=True)
class PackedImage:
    """One image and the branches behind its prefix."""

    image_id: str
    branches: tuple[Branch, ...]

    @cached_property
    def stems(self) -> tuple[Stem, ...]:
        found: dict[tuple[tuple[int, ...], bool], Stem] = {}
        for branch in self.branches:
            key = (branch.prompt_ids, branch.sees_image)
            found.setdefault(key, Stem(*key, [])).branches.append(branch)
        return tuple(found.values())

    @cached_property
    def num_inputs(self) -> int:
        """Positions behind the prefix."""
        prompts = sum(len(stem.prompt_ids) for stem in self.stems)
        return prompts + sum(branch.num_inputs - len(branch.prompt_ids) for branch in self.branches)

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
        self.image, self.kind, self.prompt = (np.full(shape, PAD, dtype=np.int64) for _ in range(3))
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
        self.prompt[row, start : start + shared] = self.kind[row, start : start + shared]
        self.positions[row, start : start + shared] = range(shared)
        place, kinds = start + shared, count(FIRST_TEXT)
        for stem in image.stems:
            prompt, num_prompt = next(kinds), len(stem.prompt_ids)
            first = shared if stem.sees_image else lead
            self._put_text((row, place), stem.prompt_ids, first, (prompt, prompt, not stem.sees_image))
            place += num_prompt
            # What precedes a target is the end of its prompt, or of the prefix, wherever the target lies.
            end = place - 1 if num_prompt else start + shared - 1
            for branch in stem.branches:
                read_ids = branch.target_ids[:-1]
                kind = (next(kinds), prompt, not stem.sees_image)
                self._put_text((row, place), read_ids, first + num_prompt, kind)
                before = [end, *range(place, place + len(read_ids))]
                self._put_targets(branch, row, before, member)
                place += len(read_ids)

    def _put_text(
        self, at: tuple[int, int], token_ids: tuple[int, ...], first_position: int, kind: tuple[int, int, bool]
    ) -> None:
        """`kind` is (its own, its prompt's, whether it is blind)."""
        row, span = at[0], slice(at[1], at[1] + len(token_ids))
        self.tokens[row, span] = token_ids
        self.kind[row, span], self.prompt[row, span], self.blind[row, span] = kind
        self.positions[row, span] = range(first_position, first_position + len(token_ids))

    def _put_targets(self, branch: Branch, row: int, before: list[int], member: int) -> None:
        """`before[n]` is where target token n is predicted."""
        if not branch.target_ids:
            self.reads[branch.objective].append((row, before[0], member, branch.values, branch.weight))
        self.targets += [
            (row, place, token, branch.objective) for place, token in zip(before, branch.target_ids, strict=False)
        ]
        self.weights += [branch.weight] * len(branch.target_ids)

    def batch(self, patches_BPV: NDArray[np.float16], view_BPV: NDArray[np.float16] | None) -> PackedBatch:
        numbers_N4 = torch.tensor(self.targets, dtype=torch.long).reshape(-1, 4)
        return PackedBatch(
            # As stored: a conversion here would compete with the training for its threads, and move twice the bytes.
            patches_BPV=torch.from_numpy(patches_BPV),
            view_BPV=None if view_BPV is None else torch.from_numpy(view_BPV),
            image_row_B=torch.from_numpy(self.starts[0]),
            image_place_B=torch.from_numpy(self.starts[1]),
            tokens_RL=torch.from_numpy(self.tokens),
            image_RL=torch.from_numpy(self.image),
            kind_RL=torch.from_numpy(self.kind),
            prompt_RL=torch.from_numpy(self.prompt),
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
        values_MU=torch.tensor([read[3] for read in found], dtype=torch.float64).reshape(len(found), num_values),
        weight_M=torch.tensor([read[4] for read in found], dtype=torch.float32),
    )
