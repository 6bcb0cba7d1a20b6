"""What a trained model says of images besides generated text: labels and numbers by its heads, scores of label texts.

All is read as training reads it, packed behind the images' prefixes: what one image gets does not depend on which
others are asked about with it.
Shapes: B images, P patches, V vision width, C labels, R numbers, N target tokens, D LM width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from infra.errors import ConfigError
from training.language_model import LanguageModel
from training.objectives import Objective
from training.objectives.answer_space import AnswerSpace
from training.packed_batch import PackedBatch
from training.packing import BatchObjectives, Branch, PackedImage, apart, pack
from training.prefix_model import PrefixModel, Reads, layout_of
from training.tokenising import ids_of_targets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POSITIONS_PER_BATCH = 8192
_Read = Callable[[PackedBatch, Reads, list[Branch]], Tensor]
"""Of a micro batch, with its branches in the order of its values."""


@dataclass(frozen=True)
class HeadReader:
    """A trained model in eval mode, asked about images as their stored features float16[B, P, V].

    `asked` holds one text per image, the examples' own prompts, which the objective's template takes in; `prompts` are
    whole. Every method raises ConfigError where the model was not trained for it, or where prefix and text do not
    fit."""

    model: PrefixModel
    language: LanguageModel
    space: AnswerSpace

    def label_scores(self, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> Tensor:
        """float32[B, C]: log-probabilities of `space.labels` by the head of `classify`."""
        return self.outputs("classify", patches_BPV, self._prompts("classify", asked, by_head=True))

    def labels(self, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> list[str]:
        """The likeliest of `space.labels` by the head of `classify`."""
        return [self.space.labels[number] for number in self.label_scores(patches_BPV, asked).argmax(dim=1).tolist()]

    def numbers(self, patches_BPV: NDArray[np.float16], asked: Sequence[str]) -> Tensor:
        """float32[B, R] by the head of `regress`, in the examples' units."""
        return self.outputs("regress", patches_BPV, self._prompts("regress", asked, by_head=True))

    def outputs(
        self, name: Literal["classify", "regress"], patches_BPV: NDArray[np.float16], prompts: Sequence[str]
    ) -> Tensor:
        """[B, C] log-probabilities or [B, R] numbers, by the head of this objective."""
        number, _ = self._objective(name, by_head=True)
        images = self._images(number, prompts, [()])

        def read(_: PackedBatch, reads: Reads, __: list[Branch]) -> Tensor:
            outputs: Tensor = self.model.heads[name](reads.heads[number])
            return outputs

        found = self._read(images, patches_BPV, (number,), read)
        if name == "classify":
            return functional.log_softmax(found, dim=1)
        means_R, deviations_R = map(found.new_tensor, (self.space.number_means, self.space.number_deviations))
        return means_R + deviations_R * found

    def log_likelihoods(
        self, patches_BPV: NDArray[np.float16], prompts: Sequence[str], targets: Sequence[str]
    ) -> list[tuple[float, int]]:
        """(log-likelihood, tokens) of each image's target behind its prompt, both with the end token, as training adds
        them up."""
        ids = self._target_ids(targets)
        images = [
            PackedImage("", (Branch("", 0, prompt, target, 1.0),))
            for prompt, target in zip(self.language.encode(list(prompts)), ids, strict=True)
        ]
        self._check_length(images)
        found = self._read(images, patches_BPV, (), self._target_sums)
        return list(zip(found.tolist(), map(len, ids), strict=True))

    def vectors(self, patches_BPV: NDArray[np.float16], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """([B, E], [B, E]) of length 1 by the head of `contrast`: of the images, and of texts that do not see them."""
        number, _ = self._objective("contrast", by_head=True)
        head: Any = self.model.heads["contrast"]
        images = [
            PackedImage("", (Branch("", number, ids, (), 1.0, sees_image=False),)) for ids in self._target_ids(texts)
        ]
        self._check_length(images)

        def read(batch: PackedBatch, reads: Reads, _: list[Branch]) -> Tensor:
            images_MD = reads.images_BD[batch.reads[number].image_M]
            return torch.stack(head.vectors(images_MD, reads.heads[number]), dim=1)

        found_B2E = self._read(images, patches_BPV, (number,), read)
        return found_B2E[:, 0], found_B2E[:, 1]

    def label_text_scores(
        self, patches_BPV: NDArray[np.float16], asked: Sequence[str], labels: Sequence[str]
    ) -> Tensor:
        """float32[B, C]: log-likelihood of each label as the answer to the prompt of `classify`.

        Summed over its tokens and the end token, as training adds them up: a probability among all texts. It is not
        divided by the length, which would favour long labels whose last tokens follow from the first."""
        number, _ = self._objective("classify", by_head=False)
        images = self._images(number, self._prompts("classify", asked, by_head=False), self._target_ids(labels))
        return self._read(images, patches_BPV, (), self._target_sums).view(-1, len(labels))

    def _target_sums(self, batch: PackedBatch, reads: Reads, branches: list[Branch]) -> Tensor:
        """Log-likelihood of each branch's target."""
        logits_NC = self.model.target_logits(reads.targets_ND).float()
        losses_N = functional.cross_entropy(logits_NC, batch.target_N, reduction="none")
        sums = torch.split(-losses_N, [len(one.target_ids) for one in branches])
        return torch.stack([part.sum() for part in sums])

    def _target_ids(self, targets: Sequence[str]) -> list[tuple[int, ...]]:
        return ids_of_targets(targets, self.language, self.model.config)

    def _prompts(self, name: str, asked: Sequence[str], by_head: bool) -> list[str]:
        _, objective = self._objective(name, by_head)
        return [objective.prompt(one) for one in asked]

    def _objective(self, name: str, by_head: bool) -> tuple[int, Objective]:
        """With its number in O."""
        found = [(number, one) for number, one in enumerate(self.model.objectives) if one.name == name]
        if not found or found[0][1].has_head != by_head:
            raise ConfigError(
                f"{name} by {'a head' if by_head else 'text'} was asked; this model was trained for "
                f"{', '.join(one.name + (' by a head' if one.has_head else '') for one in self.model.objectives)}. "
                "Use another model, or train with this objective."
            )
        return found[0]

    def _images(self, number: int, prompts: Sequence[str], targets: Sequence[tuple[int, ...]]) -> list[PackedImage]:
        """Every target behind every image; the empty one where a head reads."""
        ids = self.language.encode(list(prompts))
        images = [PackedImage("", tuple(Branch("", number, prompt, one, 1.0) for one in targets)) for prompt in ids]
        self._check_length(images)
        return images

    def _check_length(self, images: Sequence[PackedImage]) -> None:
        shared = layout_of(self.model.config, self.language).shared
        for branch in (branch for image in images for branch in image.branches):
            name = self.model.objectives[branch.objective].name
            self.language.check_length(shared + branch.num_inputs, f"{name} of an image")

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
