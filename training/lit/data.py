"""Texts of images, tokenised once, and the batches of a global step.

A rank's share of the global batch is one micro batch, whatever the resources say: the negatives of a text are all
images of the global batch, over all ranks, so cutting a share would change the loss. Where a share does not fit in
memory, take more ranks or a smaller global batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from data_prep.dataset import Example
from infra.errors import DataError
from training.config import TrainConfig
from training.data import GlobalBatch, MicroBatch, Ranks, shared_out
from training.lit.model import LitBatch
from training.lit.text_tower import TextTower, padded
from training.packing import Branch, Layout, PackedImage
from training.regimes.config import LitRegime

if TYPE_CHECKING:
    from data_prep.features import FeatureStore

TASKS = ("caption", "classify")
NOTHING_SHARED = Layout(lead=0, prefix=0)


def lit_images(examples: Sequence[Example], tower: TextTower, config: TrainConfig) -> tuple[PackedImage, ...]:
    """Images by id with all their texts: captions as they are, labels in the regime's templates.

    A text is a branch without target. Raises DataError where there is no such example or a text has no tokens."""
    assert isinstance(config.regime, LitRegime)
    texts = [(example, text) for example in examples for text in _texts_of(example, config.regime)]
    different = sorted({text for _, text in texts})
    ids = dict(zip(different, tower.encode(different, config.max_target_tokens), strict=True))
    by_image: dict[str, list[Branch]] = {}
    for example, text in sorted(texts, key=lambda found: found[0].example_id):
        if not text.strip() or not ids[text]:
            raise DataError(
                f"example {example.example_id[:12]}… ({example.source}): the text {text!r} has no tokens; expected at "
                "least one. Remove the example from its source, or ingest it with text."
            )
        branch = Branch(example.example_id, 0, ids[text], (), example.weight)
        by_image.setdefault(example.image_id, []).append(branch)
    return tuple(PackedImage(image_id, tuple(by_image[image_id])) for image_id in sorted(by_image))


def _texts_of(example: Example, regime: LitRegime) -> tuple[str, ...]:
    if example.task not in TASKS:
        return ()
    if example.task == "caption":
        return example.targets
    return tuple(text for label in example.targets for text in regime.texts_of(label))


@dataclass(frozen=True)
class LitBatcher:
    """Images of a global step → this rank's tensors."""

    features: FeatureStore
    pad_id: int
    config: TrainConfig
    ranks: Ranks

    def global_batch(self, images: Sequence[PackedImage]) -> GlobalBatch:
        """One micro batch per rank, so `ranks` must not bound it; a rank without an image takes one with weight 0."""
        weight = sum(branch.weight for image in images for branch in image.branches)
        assert self.config.objectives.contrast is not None
        scale = self.config.objectives.contrast.weight / weight if weight else 0.0
        (share,) = shared_out(images, self.ranks, NOTHING_SHARED)
        return GlobalBatch(
            (self._micro_batch(share, scale),), (weight,), sum(len(image.branches) for image in images), len(images)
        )

    def _micro_batch(self, images: Sequence[PackedImage], scale: float) -> MicroBatch:
        texts = [(number, branch) for number, image in enumerate(images) for branch in image.branches]
        tokens_XT, mask_XT = padded([branch.prompt_ids for _, branch in texts], self.pad_id)
        batch = LitBatch(
            patches_IPV=torch.from_numpy(self.features.gather([image.image_id for image in images])),
            tokens_XT=tokens_XT,
            mask_XT=mask_XT,
            image_of_text_X=torch.tensor([number for number, _ in texts]),
            text_id_X=torch.tensor([text_id(branch.prompt_ids) for _, branch in texts]),
            weight_X=torch.tensor([branch.weight for _, branch in texts], dtype=torch.float32),
            scale=torch.tensor(scale, dtype=torch.float32),
        )
        return MicroBatch(batch, tuple(dict.fromkeys(branch.example_id for _, branch in texts)))


def text_id(ids: tuple[int, ...]) -> int:
    """int64, equal for equal texts on every rank."""
    digest = hashlib.sha256(" ".join(map(str, ids)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
