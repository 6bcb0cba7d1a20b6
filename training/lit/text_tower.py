"""Any text encoder of `transformers`, from a local folder: encoders (BERT, CLIP's text half) and decoders (Llama).

Shapes: X texts, T tokens, D tower width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from infra.errors import ConfigError
from training.language_model import UNBOUNDED_POSITIONS, check_embedding, load_tokenizer

PROBE = "a photo"
POOLER = "pooler."


@dataclass(frozen=True)
class TextTower:
    """A model, its tokenizer, and what both say about texts."""

    model: Any
    tokenizer: Any
    folder: Path
    width: int
    max_tokens: int
    """Positions of the model, and the tokenizer's own bound."""
    pad_id: int
    has_pooler: bool

    def encode(self, texts: list[str], max_tokens: int) -> list[tuple[int, ...]]:
        """Token ids with the special tokens the tower was trained with; longer texts are cut between them."""
        if not texts:
            return []
        found = self.tokenizer(texts, truncation=True, max_length=min(max_tokens, self.max_tokens))
        return [tuple(ids) for ids in found["input_ids"]]


def padded(texts: Sequence[tuple[int, ...]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(tokens_XT, mask_XT), filled up behind the texts."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in texts]
    ones = [torch.ones(len(ids), dtype=torch.long) for ids in texts]
    return pad_sequence(rows, True, pad_id), pad_sequence(ones, True, 0)


def load_text_tower(folder: Path, dtype: torch.dtype) -> TextTower:
    """The text model of a checkpoint folder, in eval mode. Raises ConfigError where there is none."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    tokenizer = load_tokenizer(folder)
    options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, info = AutoModel.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _no_tower(folder, str(error).strip().splitlines()[0]) from error
    if any(key.startswith(POOLER) for key in info["missing_keys"]):
        model.pooler = None  # checkpoints of masked language models come without, and this one is random
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(POOLER))
    if missing:
        raise _no_tower(folder, f"{len(missing)} weights are missing, the first {missing[0]}")
    return text_tower(_text_half(model), tokenizer, folder)


def outlined_text_tower(folder: Path, dtype: torch.dtype) -> TextTower:
    """From its configuration and its tokenizer alone, under fake tensors."""
    from transformers import AutoConfig, AutoModel
    from transformers.initialization import no_init_weights

    with no_init_weights():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_config(config, dtype=dtype, trust_remote_code=False)
    return text_tower(_text_half(model), load_tokenizer(folder), folder)


def text_tower(model: Any, tokenizer: Any, folder: Path) -> TextTower:
    """Check a model that is already in memory."""
    model.eval()
    positions = getattr(model.config, "max_position_embeddings", None) or UNBOUNDED_POSITIONS
    pads = (tokenizer.pad_token_id, getattr(model.config, "pad_token_id", None), 0)
    pad_id = next(int(pad) for pad in pads if pad is not None)
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    try:
        with torch.no_grad():
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
            hidden = output.last_hidden_state
    except (TypeError, ValueError, AttributeError) as error:
        raise _no_tower(folder, str(error).strip().splitlines()[0]) from error
    if hidden.shape[:2] != ids.shape:
        raise _no_tower(folder, f"{ids.shape[1]} tokens gave hidden states of the shape {list(hidden.shape)}")
    check_embedding(tokenizer, int(model.get_input_embeddings().weight.shape[0]), folder)
    max_tokens = min(int(positions), int(tokenizer.model_max_length))
    has_pooler = getattr(output, "pooler_output", None) is not None
    return TextTower(model, tokenizer, folder, int(hidden.shape[2]), max_tokens, pad_id, has_pooler)


def _text_half(model: Any) -> Any:
    """Of a model of two towers (CLIP, SigLIP) or of encoder and decoder (T5), what reads the text."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return getattr(model, "text_model", model)


def _no_tower(folder: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{folder}: no text tower could be used ({reason}); expected a transformers checkpoint in safetensors whose "
        "model reads token ids and gives a hidden state for each. Name another folder under language_model."
    )
