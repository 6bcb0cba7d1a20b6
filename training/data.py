"""The order in which images are trained: a function of seed, epoch and dataset, whatever the number of ranks.

A global batch is shared out over ranks, a rank's share is cut into micro batches of at most so many positions. The
last global batch of an epoch may be smaller and is kept; a rank that has fewer micro batches than another takes one
with weight 0, so that every rank joins every collective.
Shapes: O objectives.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from infra.digests import digest_json
from training.config import TrainConfig
from training.objectives import objectives_of
from training.packing import BatchObjectives, Layout, PackedImage, apart, pack

if TYPE_CHECKING:
    import numpy as np
    import torch

    from data_prep.features import FeatureStore

PREFETCH_STEPS = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """How a global batch is shared out."""

    rank: int
    num_ranks: int
    micro_batch_tokens: int | None
    """Positions of a micro batch, prefix and padding included. None: a rank's whole share is one micro batch."""


class Tensors(Protocol):
    """What a model of the loop reads."""

    def to(self, device: torch.device) -> Self: ...


@dataclass(frozen=True)
class MicroBatch:
    tensors: Tensors
    example_ids: tuple[str, ...]


@dataclass(frozen=True)
class GlobalBatch:
    """This rank's part of a global batch, and what the whole of it holds."""

    micro_batches: tuple[MicroBatch, ...]
    """As many on every rank."""
    weight_O: tuple[float, ...]
    num_targets: int
    num_images: int


class Batcher(Protocol):
    """Images of a global step → this rank's tensors."""

    @property
    def ranks(self) -> Ranks: ...

    def global_batch(self, images: Sequence[PackedImage]) -> GlobalBatch: ...


class TrainingOrder:
    """Which images make up global step s, and with which of their branches."""

    def __init__(self, images: Sequence[PackedImage], config: TrainConfig, dataset_digest: str) -> None:
        self.images = images
        self.config = config
        self.dataset_digest = dataset_digest
        self.steps_per_epoch = -(-len(images) // config.global_batch_images)
        self.num_steps = self.steps_per_epoch * config.epochs
        # Drawn once per epoch: of ten million images a permutation takes longer than a global step.
        self._order = lru_cache(1)(lambda epoch: self._random("order", epoch).permutation(len(images)))

    def batch(self, step: int) -> list[PackedImage]:
        """The images of global step `step` (from 0), with at most max_targets_per_image branches each."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        start = place * self.config.global_batch_images
        chosen = order[start : start + self.config.global_batch_images]
        return [self.bounded(self.images[int(number)], epoch) for number in chosen]

    def bounded(self, image: PackedImage, epoch: int) -> PackedImage:
        """With at most max_targets_per_image of its branches."""
        limit = self.config.max_targets_per_image
        if len(image.branches) <= limit:
            return image
        chosen = sorted(self._random("targets", epoch, image.image_id).permutation(len(image.branches))[:limit])
        return replace(image, branches=tuple(image.branches[int(number)] for number in chosen))

    def _random(self, *purpose: object) -> np.random.Generator:
        import numpy as np

        digest = digest_json([self.config.seed, self.dataset_digest, *purpose])
        return np.random.Generator(np.random.PCG64(int(digest[:32], 16)))


@dataclass(frozen=True)
class PrefixBatcher:
    """Rows of images with their branches behind a prefix."""

    features: FeatureStore
    layout: Layout
    config: TrainConfig
    ranks: Ranks

    def global_batch(self, images: Sequence[PackedImage]) -> GlobalBatch:
        objectives = objectives_of(self.config.objectives)
        by_image = [image.weights(len(objectives)) for image in images]
        weight_O = tuple(sum(column) for column in zip(*by_image, strict=True))
        scale_O = (o.weight / weight if weight else 0.0 for o, weight in zip(objectives, weight_O, strict=True))
        told = BatchObjectives(tuple(scale_O), tuple(number for number, o in enumerate(objectives) if o.has_head))
        whole = images if self.layout.shares else [single for image in images for single in apart(image)]
        return GlobalBatch(
            tuple(self._micro_batch(share, told) for share in shared_out(whole, self.ranks, self.layout)),
            weight_O,
            sum(image.num_targets for image in images),
            len(images),
        )

    def _micro_batch(self, images: Sequence[PackedImage], objectives: BatchObjectives) -> MicroBatch:
        image_ids = [image.image_id for image in images]
        consistency = self.config.regularisers.consistency
        view = self.features.gather(image_ids, consistency.view) if consistency and consistency.view else None
        return MicroBatch(
            pack(images, self.features.gather(image_ids), self.layout, objectives, view),
            tuple(dict.fromkeys(branch.example_id for image in images for branch in image.branches)),
        )


def shared_out(batch: Sequence[PackedImage], ranks: Ranks, layout: Layout) -> list[list[PackedImage]]:
    """This rank's micro batches: every num_ranks-th image by length, so that ranks get equal work, cut into
    neighbours of similar length, so that little is padded. Every rank gets as many."""
    by_length = sorted(batch, key=lambda image: (-image.num_inputs, image.image_id))
    cuts = [
        _cut(by_length[rank :: ranks.num_ranks], ranks.micro_batch_tokens, layout) for rank in range(ranks.num_ranks)
    ]
    own = cuts[ranks.rank]
    missing = max(len(cut) for cut in cuts) - len(own)
    return own + [[_weightless(by_length[-1])] for _ in range(missing)]


def _cut(images: Sequence[PackedImage], max_tokens: int | None, layout: Layout) -> list[list[PackedImage]]:
    """Images, longest first, in micro batches of at most `max_tokens` positions, or of one image."""
    if max_tokens is None:
        return [list(images)] if images else []
    cut: list[list[PackedImage]] = []
    free: list[int] = []
    """Room left in each row of the last micro batch, filled as rows_of fills it."""
    capacity = 0
    for image in images:
        length = layout.length(image)
        has_room = (row for row, room in enumerate(free) if layout.shares and room >= length)
        row = next(has_room, len(free))
        if not cut or max(row + 1, len(free)) * capacity > max_tokens:
            cut.append([])
            free, capacity, row = [], length, 0
        if row == len(free):
            free.append(capacity)
        free[row] -= length
        cut[-1].append(image)
    return cut


def _weightless(image: PackedImage) -> PackedImage:
    return replace(image, branches=(replace(image.branches[0], weight=0.0),))


def prefetched(make: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
    """make(start), ..., make(stop - 1), each made by a thread while earlier ones are used."""
    ready: queue.Queue[T | BaseException] = queue.Queue(PREFETCH_STEPS)
    closed = threading.Event()

    def put(item: T | BaseException) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(start, stop):
                if closed.is_set():
                    return
                put(make(step))
        except BaseException as error:  # raised again where it is waited for
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
