"""A trained model's replies to what is asked of it; one rule for evaluation and serving.

Shapes: B images, P patches, V vision width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.asking import Asked, Reply
from training.generation import GenerationConfig, generate_scored

if TYPE_CHECKING:
    from training.few_shot import ShownBefore
    from training.head_outputs import HeadReader


def replies_to(
    reader: HeadReader,
    patches_BPV: Any,
    asked: Sequence[Asked],
    generation: GenerationConfig,
    shown: ShownBefore | None = None,
) -> list[Reply]:
    """One each. All that is asked is of one kind; `patches_BPV` is a float16 or float32 array of its images. Shots can
    be `shown` before texts and likelihoods."""
    import torch

    from training.few_shot import target_likelihoods

    (kind,) = {one.kind for one in asked}
    prompts = [one.prompt for one in asked]
    if kind == "text":
        patches = torch.from_numpy(patches_BPV).to(reader.model.lead.device)
        return generate_scored(reader.model, reader.language, patches, asked, generation, shown)
    if kind == "likelihood":
        if shown is None:
            found = reader.log_likelihoods(patches_BPV, prompts, [one.target for one in asked])
        else:
            patches = torch.from_numpy(patches_BPV).to(reader.model.lead.device)
            found = target_likelihoods(reader.model, reader.language, patches, asked, shown)
        return [Reply(log_likelihood=value, num_tokens=count) for value, count in found]
    if kind == "classify":
        return _with_labels(reader.space.labels, reader.outputs("classify", patches_BPV, prompts).tolist())
    if kind == "regress":
        return [Reply(numbers=tuple(row)) for row in reader.outputs("regress", patches_BPV, prompts).tolist()]
    image_BE, text_BE = reader.vectors(patches_BPV, prompts)
    return [Reply(numbers=tuple(row)) for row in (image_BE if kind == "image_vector" else text_BE).tolist()]


def _with_labels(labels: Sequence[str], scores: list[list[float]]) -> list[Reply]:
    """The likeliest label as the text, with its log-probability."""
    return [Reply(labels[row.index(max(row))], max(row), numbers=tuple(row)) for row in scores]
