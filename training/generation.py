"""Greedy answers of a prefix model, shared by evaluation and serving.

A row is [pad][shared][prompt], where soft prompt, lead and prefix are what is shared: padding on the left, hidden by
the mask and not counted by the positions, so that the text does not depend on which prompts share a batch.

Shapes: B rows, P patches, V vision width, S shared positions, D LM width, T tokens of the longest row, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from training.language_model import LanguageModel


class GenerationConfig(BaseModel):
    """What decides the text, besides the model. Decoding is greedy."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_new_tokens: int = Field(gt=0)
    """Longer texts are cut here."""


class HasSharedInputs(Protocol):
    """A model that turns patch features into what stands before a text."""

    def shared_inputs(self, patches_BPV: Tensor) -> Tensor: ...


def generate(
    model: HasSharedInputs, language: LanguageModel, patches_BPV: Tensor, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """One stripped text per row, up to the end token. Raises ConfigError where the rows do not fit the LM."""
    import torch

    if len(prompts) != len(patches_BPV):
        raise ValueError(f"found {len(prompts)} prompts for {len(patches_BPV)} images; expected one per image")
    if not prompts:
        return []
    # As in training: between bf16 matrices, trained parameters are fp32.
    autocast = torch.autocast(patches_BPV.device.type, torch.bfloat16, enabled=language.model.dtype == torch.bfloat16)
    with torch.inference_mode(), autocast:
        shared_BSD = model.shared_inputs(patches_BPV.float())
        inputs_BTD, mask_BT = _rows(language, shared_BSD, language.encode(list(prompts)))
        language.check_length(inputs_BTD.shape[1] + max_new_tokens, "the longest prompt and its answer")
        token_ids = _greedy(language, inputs_BTD, mask_BT, max_new_tokens)
    texts = language.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [str(text).strip() for text in texts]


def _rows(language: LanguageModel, shared_BSD: Tensor, prompt_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Embedded, left-padded rows, and a mask that is 1 where a row has begun."""
    import torch

    embed, device = language.model.get_input_embeddings(), shared_BSD.device
    num_before = shared_BSD.shape[1]
    num_tokens = num_before + max(len(ids) for ids in prompt_ids)
    inputs_BTD = shared_BSD.new_zeros(len(shared_BSD), num_tokens, shared_BSD.shape[2])
    mask_BT = torch.zeros(len(shared_BSD), num_tokens, dtype=torch.long, device=device)
    for row, ids in enumerate(prompt_ids):
        prompt_TD = embed(torch.tensor(ids, dtype=torch.long, device=device)).to(shared_BSD.dtype)
        begin = num_tokens - num_before - len(ids)
        inputs_BTD[row, begin:] = torch.cat([shared_BSD[row], prompt_TD])
        mask_BT[row, begin:] = 1
    return inputs_BTD, mask_BT


def _greedy(language: LanguageModel, inputs_BTD: Tensor, mask_BT: Tensor, max_new_tokens: int) -> list[list[int]]:
    """Token ids of each row, without its end token. A row that has ended leaves the batch."""
    import torch

    out: list[list[int]] = [[] for _ in range(len(inputs_BTD))]
    rows = list(range(len(inputs_BTD)))
    positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    step: dict[str, Any] = {"inputs_embeds": inputs_BTD}
    cache = None
    for _ in range(max_new_tokens):
        found = language.model(
            **step,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, next_B = found.past_key_values, found.logits[:, -1].argmax(dim=-1)
        going = [place for place, token in enumerate(next_B.tolist()) if token != language.eos_id]
        for place in going:
            out[rows[place]].append(int(next_B[place]))
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=next_B.device)
            cache.batch_select_indices(kept)
            next_B, mask_BT, positions_BT = next_B[kept], mask_BT[kept], positions_BT[kept]
            rows = [rows[place] for place in going]
        step = {"input_ids": next_B[:, None]}
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)
        positions_BT = positions_BT[:, -1:] + 1
    return out
