"""The order in which images are trained: a function of seed, epoch and dataset, whatever the number of ranks.

A global batch is cut into rank slices, these into micro batches. The last global batch of an epoch may be smaller and
is kept; a micro batch that gets no image takes one with weight 0, so that every rank joins every collective.
Shapes: O objectives.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_prep.dataset import Example
from infra.digests import digest_json
from infra.errors import DataError
from training.config import TrainConfig
from training.language_model import LanguageModel
from training.objectives import objectives_of
from training.packing import Branch, PackedBatch, PackedImage, pack

if TYPE_CHECKING:
    import numpy as np

    from data_prep.features import FeatureStore

PREFETCH_STEPS = 4


@dataclass(frozen=True)
class Ranks:
    """How a global batch is shared out."""

    rank: int
    num_ranks: int
    micro_batch_images: int

    def num_micro_batches(self, batch_images: int) -> int:
        """Per rank and global step; the same on all ranks."""
        slice_images = -(-batch_images // self.num_ranks)
        return -(-slice_images // self.micro_batch_images)


@dataclass(frozen=True)
class MicroBatch:
    tensors: PackedBatch
    example_ids: tuple[str, ...]


@dataclass(frozen=True)
class GlobalBatch:
    """This rank's part of a global batch, and what the whole of it holds."""

    micro_batches: tuple[MicroBatch, ...]
    weighted_targets: float
    """Over the whole global batch: what the sum of losses is divided by, on every rank."""
    num_targets: int
    num_images: int


def tokenise(
    examples: Sequence[Example], language_model: LanguageModel, config: TrainConfig
) -> tuple[PackedImage, ...]:
    """Images by id with all their branches, of the tasks that are trained. Raises where one cannot be trained."""
    objectives = {objective.name: (number, objective) for number, objective in enumerate(objectives_of(config))}
    wanted = [(example, *objectives[example.task]) for example in examples if example.task in objectives]
    prompts = _unique({objective.prompt(example.prompt) for example, _, objective in wanted}, language_model.encode)
    targets = _unique({target for example, _, _ in wanted for target in example.targets}, language_model.encode_targets)
    by_image: dict[str, list[Branch]] = {}
    num_shared = len(language_model.lead_ids) + config.mapper.prefix_tokens
    for example, number, objective in sorted(wanted, key=lambda found: found[0].example_id):
        for target in example.targets:
            branch = Branch(
                example.example_id,
                number,
                prompts[objective.prompt(example.prompt)],
                _ended(targets[target], language_model.eos_id, config.max_target_tokens),
                example.weight * objective.weight,
            )
            if not targets[target]:
                raise DataError(
                    f"example {example.example_id[:12]}… ({example.source}): the target {target!r} has no tokens; "
                    "expected at least one. Remove the example from its source, or ingest it with text."
                )
            language_model.check_length(num_shared + branch.num_inputs, f"example {example.example_id[:12]}…")
            by_image.setdefault(example.image_id, []).append(branch)
    return tuple(PackedImage(image_id, tuple(by_image[image_id])) for image_id in sorted(by_image))


def _unique(texts: set[str], encode: Callable[[list[str]], list[tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    ordered = sorted(texts)
    return dict(zip(ordered, encode(ordered), strict=True))


def _ended(target: tuple[int, ...], eos: int, max_tokens: int) -> tuple[int, ...]:
    """With the end token, or cut without one: a cut text has not ended."""
    return (*target, eos) if len(target) < max_tokens else target[:max_tokens]


class TrainingOrder:
    """Which images make up global step s, and with which of their branches."""

    def __init__(self, images: Sequence[PackedImage], config: TrainConfig, dataset_digest: str) -> None:
        if not images:
            raise DataError(
                "the train split has no example of a task that is trained; expected at least one. Check the sources' "
                f"splits and training.prompts (tasks: {', '.join(sorted(config.prompts))})."
            )
        self.images = images
        self.config = config
        self.dataset_digest = dataset_digest
        self.steps_per_epoch = -(-len(images) // config.global_batch_images)
        self.num_steps = self.steps_per_epoch * config.epochs

    def batch(self, step: int) -> list[PackedImage]:
        """The images of global step `step` (from 0), with at most max_targets_per_image branches each."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._random("order", epoch).permutation(len(self.images))
        start = place * self.config.global_batch_images
        chosen = order[start : start + self.config.global_batch_images]
        return [self._bounded(self.images[int(number)], epoch) for number in chosen]

    def _bounded(self, image: PackedImage, epoch: int) -> PackedImage:
        limit = self.config.max_targets_per_image
        if len(image.branches) <= limit:
            return image
        chosen = sorted(self._random("targets", epoch, image.image_id).permutation(len(image.branches))[:limit])
        return replace(image, branches=tuple(image.branches[int(number)] for number in chosen))

    def _random(self, *purpose: object) -> np.random.Generator:
        import numpy as np

        digest = digest_json([self.config.seed, self.dataset_digest, *purpose])
        return np.random.Generator(np.random.PCG64(int(digest[:32], 16)))


def shared_out(batch: Sequence[PackedImage], ranks: Ranks, num_micro: int) -> list[list[PackedImage]]:
    """This rank's micro batches: every num_ranks-th image by length, so that ranks get equal work, cut into
    neighbours of similar length, so that little is padded."""
    by_length = sorted(batch, key=lambda image: (image.num_inputs, image.image_id))
    own = by_length[ranks.rank :: ranks.num_ranks]
    small, larger = divmod(len(own), num_micro)
    micro_batches, start = [], 0
    for number in range(num_micro):
        size = small + (number < larger)
        micro_batches.append(own[start : start + size] or [_weightless(by_length[0])])
        start += size
    return micro_batches


def _weightless(image: PackedImage) -> PackedImage:
    return replace(image, branches=(replace(image.branches[0], weight=0.0),))


def global_batch(batch: Sequence[PackedImage], ranks: Ranks, features: FeatureStore, batch_images: int) -> GlobalBatch:
    """Tensors of this rank's micro batches. `batch_images` is the size of a full global batch."""
    shares = shared_out(batch, ranks, ranks.num_micro_batches(batch_images))
    micro_batches = tuple(
        MicroBatch(
            pack(share, features.gather([image.image_id for image in share])),
            tuple(dict.fromkeys(branch.example_id for image in share for branch in image.branches)),
        )
        for share in shares
    )
    return GlobalBatch(
        micro_batches,
        sum(image.weighted_targets for image in batch),
        sum(image.num_targets for image in batch),
        len(batch),
    )


def prefetched(make: Callable[[int], GlobalBatch], start: int, stop: int) -> Iterator[GlobalBatch]:
    """make(start), ..., make(stop - 1), each made by a thread while earlier ones are used."""
    ready: queue.Queue[GlobalBatch | BaseException] = queue.Queue(PREFETCH_STEPS)
    closed = threading.Event()

    def put(item: GlobalBatch | BaseException) -> None:
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
