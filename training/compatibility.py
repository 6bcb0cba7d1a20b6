"""What a language model of `transformers` can do, asked of the model itself with a few random vectors.

Shapes: L positions, D LM width.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from infra.errors import ConfigError

NUM_SHARED, NUM_BRANCH = 3, 5
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 1e-2}
"""In units of the hidden states' standard deviation. A mask or position that is not followed moves them by about 1."""


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
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ConfigError(
            f"{name} cannot read inputs_embeds ({str(error).strip().splitlines()[0]}); expected a language model that "
            f"reads vectors in the place of token embeddings, since the prefix is such vectors. {remedy}"
        ) from error
    if not same:
        raise ConfigError(
            f"{name}: its logits are not its output matrix times its last hidden states; expected that, since training "
            f"computes logits at target positions only. {remedy}"
        )


def allows_sharing(language_model: Any) -> bool:
    """Whether a block mask and position ids make branches behind one prefix what they are in sequences of their own."""
    parameters = _parameters(language_model)
    if "position_ids" not in parameters or "attention_mask" not in parameters or _has_window(language_model.config):
        return False
    shared_1LD = _random_embeddings(language_model, NUM_SHARED + 2 * NUM_BRANCH)
    own_1LD = torch.cat([shared_1LD[:, :NUM_SHARED], shared_1LD[:, NUM_SHARED + NUM_BRANCH :]], dim=1)
    try:
        with torch.no_grad():
            expected_1LD = language_model.base_model(inputs_embeds=own_1LD, use_cache=False).last_hidden_state
            found_1LD = language_model.base_model(
                inputs_embeds=shared_1LD, use_cache=False, **_block_mask(shared_1LD)
            ).last_hidden_state
    except (TypeError, ValueError, RuntimeError, IndexError):  # what models raise for a mask they cannot take
        return False
    difference = (found_1LD[:, -NUM_BRANCH:] - expected_1LD[:, -NUM_BRANCH:]).float().abs().max()
    return bool(difference <= TOLERANCES[expected_1LD.dtype] * expected_1LD.float().std())


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


def _block_mask(inputs_1LD: Tensor) -> dict[str, Tensor]:
    """Two branches behind shared positions."""
    length = NUM_SHARED + 2 * NUM_BRANCH
    allowed_LL = torch.ones(length, length, dtype=torch.bool, device=inputs_1LD.device).tril()
    allowed_LL[-NUM_BRANCH:, NUM_SHARED:-NUM_BRANCH] = False
    mask_LL = torch.zeros(length, length, dtype=inputs_1LD.dtype, device=inputs_1LD.device)
    mask_LL.masked_fill_(~allowed_LL, torch.finfo(inputs_1LD.dtype).min)
    own_L = torch.arange(NUM_SHARED, NUM_SHARED + NUM_BRANCH)
    positions_1L = torch.cat([torch.arange(NUM_SHARED), own_L, own_L])[None].to(inputs_1LD.device)
    return {"attention_mask": mask_LL[None, None], "position_ids": positions_1L}
