"""Shots before a question, as the language model reads them.

    [soft prompt, lead][prefix 1][prompt 1][target 1] ... [prefix k][prompt k][target k][prefix][prompt]

Soft prompt and lead begin every sequence of the training and stand here once. What stands behind a shot's target is
what stood there in training: the end token, and nothing behind a target that was cut.
Shapes: B questions, k shots of each, P patches, V vision width, S shared positions, K prefix length, D LM width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from infra.errors import ConfigError
from training.asking import Asked
from training.config import TrainConfig
from training.generation import left_padded, mixed_precision
from training.language_model import LanguageModel, outlined_language_model
from training.prefix_model import PrefixModel, layout_of
from training.shots import Shot, Shots
from training.tokenising import ids_of_targets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EncodedShots(NamedTuple):
    """Of one question."""

    shots: Shots
    patches_kPV: NDArray[np.float16]


@dataclass(frozen=True)
class ShownBefore:
    """The shots of each question, embedded."""

    lead: int
    """Positions of soft prompt and lead."""
    rows: Sequence[Tensor]
    """[*, D] of each question: its shots' prefixes and texts."""

    def put_into(self, shared_BSD: Tensor) -> list[Tensor]:
        """[*, D] of each question: what stands before its prompt."""
        pairs = zip(shared_BSD, self.rows, strict=True)
        return [torch.cat([shared_SD[: self.lead], row, shared_SD[self.lead :]]) for shared_SD, row in pairs]


def shown_before(model: PrefixModel, language: LanguageModel, encoded: Sequence[EncodedShots]) -> ShownBefore:
    """Of questions with equally many shots."""
    lead, embed = layout_of(model.config, language).lead, language.model.get_input_embeddings()
    ids = _text_ids([shot for each in encoded for shot in each.shots], language, model.config)
    patches = torch.cat([torch.from_numpy(each.patches_kPV) for each in encoded])
    with torch.inference_mode(), mixed_precision(language):
        prefixes = model.shared_inputs(patches.to(model.lead.device).float())[:, lead:]
        texts = [embed(torch.tensor(one, device=prefixes.device)).to(prefixes.dtype) for one in ids]
        embedded = [torch.cat(pair) for pair in zip(prefixes, texts, strict=True)]
    num_shots = len(encoded[0].shots)
    starts = range(0, len(embedded), num_shots)
    return ShownBefore(lead, [torch.cat(embedded[start : start + num_shots]) for start in starts])


def target_likelihoods(
    model: PrefixModel, language: LanguageModel, patches_BPV: Tensor, asked: Sequence[Asked], shown: ShownBefore
) -> list[tuple[float, int]]:
    """(log-likelihood, tokens) of each question's target, both with the end token, as training adds them up."""
    prompts = language.encode([one.prompt for one in asked])
    targets = ids_of_targets([one.target for one in asked], language, model.config)
    read = [prompt + target[:-1] for prompt, target in zip(prompts, targets, strict=True)]
    with torch.inference_mode(), mixed_precision(language):
        before = shown.put_into(model.shared_inputs(patches_BPV.float()))
        inputs_BTD, mask_BT = left_padded(language, before, read)
        logits = language.model(
            inputs_embeds=inputs_BTD,
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=max(map(len, targets)),
        ).logits
    # Rows end together, where the last token of each target is predicted.
    likely = (row[-len(ids) :].float().log_softmax(dim=-1) for row, ids in zip(logits, targets, strict=True))
    return [(float(rows[range(len(ids)), ids].sum()), len(ids)) for rows, ids in zip(likely, targets, strict=True)]


def check_positions(
    asked: Collection[Asked],
    shots: Mapping[str, Shots],
    config: TrainConfig,
    language_model_folder: Path,
    max_new_tokens: int,
) -> None:
    """Raises ConfigError where a question with its shots and its answer has no positions. All that is asked has shots.
    Reads no weights."""
    with torch.device("meta"):
        language = outlined_language_model(language_model_folder, torch.float32)
    layout = layout_of(config, language)
    prompts = language.encode([one.prompt for one in asked])
    targets = ids_of_targets([one.target for one in asked], language, config)
    texts = {digest: _text_ids(each, language, config) for digest, each in shots.items()}
    num_before = {digest: sum(layout.prefix + len(ids) for ids in each) for digest, each in texts.items()}
    longest = max(
        layout.shared + num_before[one.shots] + len(prompt) + (max_new_tokens if one.kind == "text" else len(target))
        for one, prompt, target in zip(asked, prompts, targets, strict=True)
    )
    if longest > language.max_positions:
        raise ConfigError(
            f"evaluation.few_shot: the longest question takes {longest} positions with its shots and its answer; "
            f"expected at most the language model's {language.max_positions}. Lower few_shot.examples or "
            "max_new_tokens."
        )


def _text_ids(shots: Sequence[Shot], language: LanguageModel, config: TrainConfig) -> list[tuple[int, ...]]:
    """Of each shot's prompt and target, as they were trained."""
    prompts = language.encode([shot.prompt for shot in shots])
    targets = ids_of_targets([shot.target for shot in shots], language, config)
    return [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
