"""What a trained model says of images besides generated text: labels and numbers by its heads, scores of label texts.

All is read as training reads it, packed behind the images' prefixes: what one image gets does not depend on which
others are asked about with it.
Shapes: B images, P patches, V vision width, C labels, R numbers, N target tokens, D LM width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from infra.errors import ConfigError
from training.language_model import LanguageModel
from training.objectives.answer_space import AnswerSpace
from training.packing import BatchObjectives, Branch, PackedBatch, PackedImage, apart, pack
from training.prefix_model import PrefixModel, Reads, layout_of
from training.tokenising import ended

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POSITIONS_PER_BATCH = 8192
_Read = Callable[[PackedBatch, Reads, list[Branch]], Tensor]
"""Of a micro batch, with its branches in the order of its values."""


@dataclass(frozen=True)
class HeadReader:
    """A trained model in eval mode, asked about images as their stored features float16[B, P, V].

    `asked` holds one text per image, the examples' own prompts, which the objective's template takes in. Every method
    raises ConfigError where the model was not trained for it, or where prefix and text do not fit."""

    model: PrefixModel
    language: LanguageModel
    space: AnswerSpace

    def label_scores(self, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> Tensor:
        """float32[B, C]: log-probabilities of `space.labels` by the head of `classify`."""
        return functional.log_softmax(self._head("classify", patches_BPV, asked), dim=1)

    def labels(self, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> list[str]:
        """The likeliest of `space.labels` by the head of `classify`."""
        return [self.space.labels[number] for number in self.label_scores(patches_BPV, asked).argmax(dim=1).tolist()]

    def numbers(self, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> Tensor:
        """float32[B, R] by the head of `regress`, in the examples' units."""
        scaled_BR = self._head("regress", patches_BPV, asked)
        means_R, deviations_R = map(scaled_BR.new_tensor, (self.space.number_means, self.space.number_deviations))
        return means_R + deviations_R * scaled_BR

    def label_text_scores(
        self, patches_BPV: NDArray[np.float16], asked: Sequence[str], labels: Sequence[str]
    ) -> Tensor:
        """float32[B, C]: log-likelihood of each label as the answer to the prompt of `classify`.

        Summed over its tokens and the end token, as training adds them up: a probability among all texts. It is not
        divided by the length, which would favour long labels whose last tokens follow from the first."""
        ids = self.language.encode_targets(list(labels))
        targets = [ended(target, self.language.eos_id, self.model.config.max_target_tokens) for target in ids]
        images = self._images("classify", asked, targets)

        def read(batch: PackedBatch, reads: Reads, branches: list[Branch]) -> Tensor:
            logits_NC = self.model.target_logits(reads.targets_ND).float()
            losses_N = functional.cross_entropy(logits_NC, batch.target_N, reduction="none")
            sums = torch.split(-losses_N, [len(one.target_ids) for one in branches])
            return torch.stack([part.sum() for part in sums])

        return self._read(images, patches_BPV, (), read).view(-1, len(labels))

    def _head(self, name: str, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> Tensor:
        """[B, outputs of the head]."""
        images = self._images(name, asked, [()])
        number = images[0].branches[0].objective if images else 0

        def read(_: PackedBatch, reads: Reads, __: list[Branch]) -> Tensor:
            outputs: Tensor = self.model.heads[name](reads.heads[number])
            return outputs

        return self._read(images, patches_BPV, (number,), read)

    def _images(self, name: str, asked: Sequence[str], targets: Sequence[tuple[int, ...]]) -> list[PackedImage]:
        """Every target behind every image; the empty one where a head reads."""
        by_head = not targets[0]
        found = [(number, one) for number, one in enumerate(self.model.objectives) if one.name == name]
        if not found or found[0][1].has_head != by_head:
            raise ConfigError(
                f"{name} by {'a head' if by_head else 'text'} was asked; this model was trained for "
                f"{', '.join(one.name + (' by a head' if one.has_head else '') for one in self.model.objectives)}. "
                "Use another model, or train with this objective."
            )
        (number, objective), layout = found[0], layout_of(self.model.config, self.language)
        prompts = self.language.encode([objective.prompt(one) for one in asked])
        images = [PackedImage("", tuple(Branch("", number, ids, one, 1.0) for one in targets)) for ids in prompts]
        for branch in (branch for image in images for branch in image.branches):
            self.language.check_length(layout.shared + branch.num_inputs, f"{name} of an image")
        return images

    def _read(
        self, images: Sequence[PackedImage], patches_BPV: NDArray[np.float16], heads: tuple[int, ...], read: _Read
    ) -> Tensor:
        """What `read` makes of all branches, in the order of images and their branches."""
        if len(images) != len(patches_BPV) or not images:
            raise ValueError(
                f"found {len(images)} prompts for {len(patches_BPV)} images; expected one each, at least 1"
            )
        layout = layout_of(self.model.config, self.language)
        if not layout.shares:
            patches_BPV = patches_BPV.repeat([len(image.branches) for image in images], axis=0)
            images = [single for image in images for single in apart(image)]
        told = BatchObjectives(tuple(1.0 for _ in self.model.objectives), heads)
        size = max(1, POSITIONS_PER_BATCH // max(layout.length(image) for image in images))
        found: list[Tensor] = []
        for start in range(0, len(images), size):
            some = images[start : start + size]
            batch = pack(some, patches_BPV[start : start + size], layout, told).to(self.model.lead.device)
            # Rows take images in an order of their own.
            order = [member for row in layout.rows(some) for member in row]
            with torch.inference_mode():
                branches = [branch for member in order for branch in some[member].branches]
                values = read(batch, self.model.read(batch, batch.patches_BPV), branches)
            # Every image has as many branches.
            by_image = values.reshape(len(some), -1, *values.shape[1:])
            found.append(by_image[torch.tensor(order).argsort()].flatten(0, 1))
        return torch.cat(found)
