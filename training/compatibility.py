"""What a language model of `transformers` can do, asked of the model itself with a few random vectors.

Shapes: L positions, D LM width.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from infra.errors import ConfigError

NUM_SHARED, NUM_BRANCH = 3, 5
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Root mean square difference of hidden states, in units of their standard deviation."""
SAME_DIRECTION = 0.999
"""Cosine of rows of the output matrix. Those of two tokens that were trained lie far below."""


def check_embeddings_path(language_model: Any) -> None:
    """Raises ConfigError unless vectors can stand for tokens, and the output matrix alone turns hidden states into
    logits: training asks for logits at target positions only."""
    name = type(language_model).__name__
    remedy = "Name another language model."
    if "inputs_embeds" not in _parameters(language_model):
        raise ConfigError(
            f"{name} does not take inputs_embeds; expected a language model that reads vectors in the place of token "
            f"embeddings, since the prefix is such vectors. {remedy}"
        )
    head = language_model.get_output_embeddings()
    inputs_1LD = _random_embeddings(language_model, NUM_BRANCH)
    try:
        with torch.no_grad():
            hidden_1LD = language_model.base_model(inputs_embeds=inputs_1LD, use_cache=False).last_hidden_state
            logits = language_model(inputs_embeds=inputs_1LD, use_cache=False).logits
            same = head is not None and torch.allclose(head(hidden_1LD), logits, rtol=1e-2, atol=1e-3)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{name} cannot read inputs_embeds ({reason}); expected a language model that "
            f"reads vectors in the place of token embeddings, since the prefix is such vectors. {remedy}"
        ) from error
    if not same:
        raise ConfigError(
            f"{name}: its logits are not its output matrix times its last hidden states; expected that, since training "
            f"computes logits at target positions only. {remedy}"
        )


def allows_sharing(language_model: Any) -> bool:
    """Whether a block mask and position ids make branches behind one prefix what they are in sequences of their own."""
    if not takes_block_mask(language_model):
        return False
    shared_1LD = _random_embeddings(language_model, NUM_SHARED + 2 * NUM_BRANCH)
    mask, positions_1L = _block_mask(shared_1LD)
    moved_1L = positions_1L.clone()
    moved_1L[:, -NUM_BRANCH:] += 1
    own_1LD = torch.cat([shared_1LD[:, :NUM_SHARED], shared_1LD[:, -NUM_BRANCH:]], dim=1)
    try:
        expected = _last_branch(language_model, own_1LD)
        found = _last_branch(language_model, shared_1LD, attention_mask=mask, position_ids=positions_1L)
        moved = _last_branch(language_model, shared_1LD, attention_mask=mask, position_ids=moved_1L)
    except (TypeError, ValueError, RuntimeError, IndexError):  # what models raise for a mask they cannot take
        return False
    difference = (found.float() - expected.float()).square().mean().sqrt()
    close = bool(difference <= TOLERANCES[expected.dtype] * expected.float().std())
    # Positions can move hidden states of a small model by less than the tolerance of bf16, but not by nothing.
    return close and not torch.equal(found, moved)


def takes_block_mask(language_model: Any) -> bool:
    """Without which it cannot share; whether it heeds the mask, `allows_sharing` asks."""
    return {"position_ids", "attention_mask"} <= _parameters(language_model) and not _has_window(language_model.config)


def num_alike(language_model: Any, token_id: int) -> int:
    """Tokens that the output matrix cannot tell from this one. A pretraining that never met them moves their rows
    alike; while the matrix is frozen, n of them leave the token a likelihood of about 1 / (n + 1) at most."""
    weight = language_model.get_output_embeddings().weight.detach().float()
    cosines = torch.nn.functional.cosine_similarity(weight, weight[token_id], dim=1)
    return int((cosines > SAME_DIRECTION).sum()) - 1


def _last_branch(language_model: Any, inputs_1LD: Tensor, **following: Tensor) -> Tensor:
    """[NUM_BRANCH, D]: hidden states of the last positions."""
    with torch.no_grad():
        output = language_model.base_model(inputs_embeds=inputs_1LD, use_cache=False, **following)
    hidden: Tensor = output.last_hidden_state[0, -NUM_BRANCH:]
    return hidden


def _parameters(language_model: Any) -> set[str]:
    return set(inspect.signature(language_model.base_model.forward).parameters)


def _has_window(config: Any) -> bool:
    """A mask given from outside takes the place of a sliding window or chunk, and text gets longer than this probe."""
    kinds = getattr(config, "layer_types", None) or []
    return bool(getattr(config, "sliding_window", None)) or any(kind != "full_attention" for kind in kinds)


def _random_embeddings(language_model: Any, num_positions: int) -> Tensor:
    """[1, L, D] of random tokens, always the same."""
    weight = language_model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids_L = torch.randint(0, weight.shape[0], (num_positions,), generator=generator)
    embeddings: Tensor = language_model.get_input_embeddings()(ids_L.to(weight.device))[None].detach()
    return embeddings


def _block_mask(inputs_1LD: Tensor) -> tuple[Tensor, Tensor]:
    """(additive [1, 1, L, L], positions [1, L]) of two branches behind shared positions."""
    length, device = inputs_1LD.shape[1], inputs_1LD.device
    allowed_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    allowed_LL[-NUM_BRANCH:, NUM_SHARED:-NUM_BRANCH] = False
    mask_LL = torch.zeros(length, length, dtype=inputs_1LD.dtype, device=device)
    mask_LL.masked_fill_(~allowed_LL, torch.finfo(inputs_1LD.dtype).min)
    own_L = torch.arange(NUM_SHARED, NUM_SHARED + NUM_BRANCH, device=device)
    return mask_LL[None, None], torch.cat([torch.arange(NUM_SHARED, device=device), own_L, own_L])[None]
