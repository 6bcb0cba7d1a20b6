"""Texts of a prefix model, shared by evaluation and serving: greedy, by beam search, or drawn.

A row is [pad][shared][prompt], where soft prompt, lead and prefix are what is shared, with shots before the prefix in a
few-shot evaluation: padding on the left, hidden by the mask and not counted by the positions, so that the text does not
depend on which prompts share a batch.

Shapes: B rows, P patches, V vision width, S shared positions, D LM width, T tokens of the longest row, W vocabulary,
N new tokens at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from infra.digests import digest_json
from training.asking import Asked, Reply

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.few_shot import ShownBefore
    from training.language_model import LanguageModel


class _StrategyConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Greedy(_StrategyConfig):
    """The likeliest token, one after the other."""

    kind: Literal["greedy"] = "greedy"


class Beam(_StrategyConfig):
    """The likeliest of the texts that beam search finds."""

    kind: Literal["beam"]
    num_beams: int = Field(default=4, gt=1)
    """Unfinished texts that are kept of each row. Time and memory grow with them."""
    length_penalty: float = 1.0
    """A text's log-likelihood is divided by its number of tokens to this power: 0 favours short texts."""


class Sampling(_StrategyConfig):
    """Tokens drawn by their probabilities. A row's draws follow from the seed, its image and its prompt alone."""

    kind: Literal["sampling"]
    temperature: float = Field(default=1.0, gt=0)
    """Logits are divided by it: below 1 likely tokens become likelier."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the likeliest tokens that together have this probability are drawn (Holtzman et al. 2020)."""
    seed: int = Field(default=0, ge=0)


Strategy = Greedy | Beam | Sampling


class GenerationConfig(BaseModel):
    """What decides the text, besides the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_new_tokens: int = Field(gt=0)
    """Longer texts are cut here."""
    strategy: Strategy = Field(default=Greedy(), discriminator="kind")


class HasSharedInputs(Protocol):
    """A model that turns patch features into what stands before a text."""

    def shared_inputs(self, patches_BPV: Tensor) -> Tensor: ...


def generate(
    model: HasSharedInputs,
    language: LanguageModel,
    patches_BPV: Tensor,
    asked: Sequence[Asked],
    config: GenerationConfig,
) -> list[str]:
    """One stripped text per row, up to the end token. Raises ConfigError where the rows do not fit the LM."""
    return [reply.text for reply in generate_scored(model, language, patches_BPV, asked, config)]


def generate_scored(
    model: HasSharedInputs,
    language: LanguageModel,
    patches_BPV: Tensor,
    asked: Sequence[Asked],
    config: GenerationConfig,
    shown: ShownBefore | None = None,
) -> list[Reply]:
    """The texts, each with its log-likelihood under the model: at temperature 1, whatever it was chosen by."""
    import torch

    if len(asked) != len(patches_BPV):
        raise ValueError(f"found {len(asked)} prompts for {len(patches_BPV)} images; expected one per image")
    if not asked:
        return []
    with torch.inference_mode(), mixed_precision(language):
        shared_BSD = model.shared_inputs(patches_BPV.float())
        before = list(shared_BSD) if shown is None else shown.put_into(shared_BSD)
        inputs_BTD, mask_BT = left_padded(language, before, language.encode([one.prompt for one in asked]))
        length = inputs_BTD.shape[1] + config.max_new_tokens
        language.check_length(length, "the longest prompt and its answer")
        if isinstance(config.strategy, Beam):
            found = _by_beams(language, inputs_BTD, mask_BT, config.max_new_tokens, config.strategy)
        else:
            found = _one_by_one(language, inputs_BTD, mask_BT, _choice(asked, config), config.max_new_tokens)
    token_ids, log_likelihoods = found
    texts = language.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [Reply(str(text).strip(), value) for text, value in zip(texts, log_likelihoods, strict=True)]


def mixed_precision(language: LanguageModel) -> torch.autocast:
    """As in training: between bf16 matrices, trained parameters are fp32."""
    import torch

    model = language.model
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)


def left_padded(
    language: LanguageModel, before: Sequence[Tensor], text_ids: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Embedded, left-padded rows of what stands before each text, [*, D], and the text; and a mask that is 1 where a
    row has begun."""
    import torch

    embed, first = language.model.get_input_embeddings(), before[0]
    lengths = [len(row) + len(ids) for row, ids in zip(before, text_ids, strict=True)]
    num_tokens = max(lengths)
    inputs_BTD = first.new_zeros(len(before), num_tokens, first.shape[1])
    mask_BT = torch.zeros(len(before), num_tokens, dtype=torch.long, device=first.device)
    for row, (length, ids) in enumerate(zip(lengths, text_ids, strict=True)):
        text_TD = embed(torch.tensor(ids, dtype=torch.long, device=first.device)).to(first.dtype)
        inputs_BTD[row, num_tokens - length :] = torch.cat([before[row], text_TD])
        mask_BT[row, num_tokens - length :] = 1
    return inputs_BTD, mask_BT


_Found = tuple[list[list[int]], list[float]]
"""(token ids, log-likelihood) of each row: ids without the end token, likelihood with it."""
_Choose = Callable[["Tensor", Sequence[int], int], "Tensor"]
"""(logits [B, W], which rows these are, number of the new token) → tokens [B]"""


def _choice(asked: Sequence[Asked], config: GenerationConfig) -> _Choose:
    if isinstance(config.strategy, Sampling):
        return _drawing(asked, config.strategy, config.max_new_tokens)
    return lambda logits_BW, _, __: logits_BW.argmax(dim=-1)


def _drawing(asked: Sequence[Asked], sampling: Sampling, max_new_tokens: int) -> _Choose:
    """Each row draws from a stream of its own."""
    import torch

    streams = [random.Random(digest_json([sampling.seed, one.image_id, one.prompt])) for one in asked]
    draws = [[stream.random() for _ in range(max_new_tokens)] for stream in streams]

    def draw(logits_BW: Tensor, rows: Sequence[int], number: int) -> Tensor:
        draws_B = torch.tensor([draws[row][number] for row in rows], dtype=torch.float64, device=logits_BW.device)
        probabilities_BW = (logits_BW.double() / sampling.temperature).softmax(dim=-1)
        if sampling.top_p < 1:
            sorted_BW, order_BW = probabilities_BW.sort(dim=-1, descending=True)
            outside_BW = sorted_BW.cumsum(dim=-1) - sorted_BW >= sampling.top_p
            probabilities_BW = probabilities_BW.masked_fill(outside_BW.scatter(-1, order_BW, outside_BW), 0.0)
        # In the vocabulary's order: an order by probability turns with the last bits, which follow the batch.
        reached_BW = probabilities_BW.cumsum(dim=-1)
        return torch.searchsorted(reached_BW, draws_B[:, None] * reached_BW[:, -1:], right=True)[:, 0]

    return draw


def _one_by_one(
    language: LanguageModel,
    inputs_BTD: Tensor,
    mask_BT: Tensor,
    choose: _Choose,
    max_new_tokens: int,
) -> _Found:
    """A row that has ended leaves the batch."""
    import torch

    from training.generation_cache import cache_with_room

    out: list[list[int]] = [[] for _ in range(len(inputs_BTD))]
    log_likelihoods = [0.0] * len(out)
    rows = list(range(len(inputs_BTD)))
    positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    step: dict[str, Any] = {"inputs_embeds": inputs_BTD}
    cache = cache_with_room(language.model.config, max_new_tokens - 1)
    for number in range(max_new_tokens):
        found = language.model(
            **step,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BW = found.logits[:, -1]
        next_B = choose(logits_BW, rows, number)
        tokens = next_B.tolist()
        chosen_B = logits_BW.float().log_softmax(dim=1).gather(1, next_B[:, None])[:, 0]
        for row, value in zip(rows, chosen_B.tolist(), strict=True):
            log_likelihoods[row] += value
        going = [place for place, token in enumerate(tokens) if token != language.eos_id]
        for place in going:
            out[rows[place]].append(tokens[place])
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
    return out, log_likelihoods


def _by_beams(language: LanguageModel, inputs_BTD: Tensor, mask_BT: Tensor, max_new_tokens: int, beam: Beam) -> _Found:
    """Each row's best text: by `transformers`, whose beams are each row's own."""
    from transformers import GenerationConfig as TransformersConfig

    config = TransformersConfig(
        max_new_tokens=max_new_tokens,
        num_beams=beam.num_beams,
        length_penalty=beam.length_penalty,
        do_sample=False,
        early_stopping=False,
        eos_token_id=language.eos_id,
        pad_token_id=language.eos_id,
    )
    found_BN = language.model.generate(inputs_embeds=inputs_BTD, attention_mask=mask_BT, generation_config=config)
    # Read once more: the scores that beam search keeps are those of every beam at every step.
    chosen_BN = _token_log_likelihoods(language, inputs_BTD, mask_BT, found_BN)
    out, log_likelihoods = [], []
    for ids, values in zip(found_BN.tolist(), chosen_BN.tolist(), strict=True):
        length = ids.index(language.eos_id) if language.eos_id in ids else len(ids)
        out.append(ids[:length])
        log_likelihoods.append(sum(values[: length + 1]))
    return out, log_likelihoods


def _token_log_likelihoods(language: LanguageModel, inputs_BTD: Tensor, mask_BT: Tensor, ids_BN: Tensor) -> Tensor:
    """[B, N], of each token after those before it."""
    import torch

    num_new = ids_BN.shape[1]
    embedded_BND = language.model.get_input_embeddings()(ids_BN).to(inputs_BTD.dtype)
    mask_BL = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), num_new)], dim=1)
    logits_BNW = language.model(
        inputs_embeds=torch.cat([inputs_BTD, embedded_BND], dim=1),
        attention_mask=mask_BL,
        position_ids=(mask_BL.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=num_new + 1,
    ).logits[:, :-1]
    chosen_BN: Tensor = logits_BNW.float().log_softmax(dim=-1).gather(2, ids_BN[:, :, None])[:, :, 0]
    return chosen_BN
