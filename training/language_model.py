"""Any frozen causal language model of `transformers`, from a local folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from training.config import TrainConfig

UNBOUNDED_POSITIONS = 1 << 30


@dataclass(frozen=True)
class LanguageModel:
    """A frozen model in eval mode, its tokenizer, and what both say about sequences."""

    model: Any
    tokenizer: Any
    folder: Path
    lead_ids: tuple[int, ...]
    """What the tokenizer puts before every text (Llama: <s>; GPT-2: nothing); it goes before the prefix."""
    eos_id: int
    max_positions: int

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def embedding_scale(self) -> float:
        return float(self.model.get_input_embeddings().weight.detach().float().std())

    @cached_property
    def shares_prefix(self) -> bool:
        """Whether several texts can stand behind one copy of a prefix. Asked of the model once."""
        from training.compatibility import allows_sharing

        return allows_sharing(self.model)

    def encode(self, texts: list[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        return [tuple(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def encode_targets(self, texts: list[str]) -> list[tuple[int, ...]]:
        """Token ids of texts that follow a prompt: with one space before them, whoever puts it there."""
        adds_space = self.encode([" a"])[0][1:] == self.encode(["a"])[0]
        return self.encode(texts if adds_space else [f" {text}" for text in texts])

    def check_length(self, num_tokens: int, what: str) -> None:
        """Raises ConfigError when a sequence of this length has no positions."""
        if num_tokens > self.max_positions:
            raise ConfigError(
                f"{self.folder}: prefix and text of {what} take {num_tokens} positions; expected at most the language "
                f"model's {self.max_positions}. Lower mapper.prefix_tokens or max_target_tokens, or shorten the prompt."
            )


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{folder}: no tokenizer could be read ({reason}); expected the tokenizer's files beside the language "
            "model. Save it there with tokenizer.save_pretrained, or name another language model."
        ) from error


def load_language_model(folder: Path, dtype: torch.dtype) -> LanguageModel:
    """The model of a checkpoint folder, frozen. Raises ConfigError where it cannot be trained against."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(folder, error) from error
    return frozen_language_model(model, tokenizer, folder)


def language_model_for(config: TrainConfig, folder: Path) -> LanguageModel:
    """In the dtype that this training gives it: in another, the model could give other texts."""
    import torch

    return load_language_model(folder, torch.bfloat16 if config.language_in_bf16 else torch.float32)


def check_vocabulary(folder: Path) -> None:
    """Raises ConfigError where the tokenizer has tokens that the model has no embedding for. Reads no weights."""
    import json

    config = json.loads((folder / "config.json").read_bytes())
    if "vocab_size" in config:
        check_embedding(load_tokenizer(folder), int(config["vocab_size"]), folder)


def check_embedding(tokenizer: Any, num_rows: int, folder: Path) -> None:
    """Raises ConfigError where the tokenizer has tokens that an embedding of so many rows lacks."""
    if len(tokenizer) > num_rows:
        raise ConfigError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens; expected at most the {num_rows} rows of the "
            "language model's embedding. Use the tokenizer the model was trained with."
        )


def frozen_language_model(model: Any, tokenizer: Any, folder: Path) -> LanguageModel:
    """Freeze and check a model that is already in memory. Raises ConfigError where it cannot be trained against."""
    from training.compatibility import check_embeddings_path

    sequences = _frozen(model, tokenizer, folder)
    check_embeddings_path(model)
    return LanguageModel(model, tokenizer, folder, *sequences)


def _frozen(model: Any, tokenizer: Any, folder: Path) -> tuple[tuple[int, ...], int, int]:
    """Freeze a model whose parameters may hold nothing. Returns (lead ids, end token, positions)."""
    from transformers import GenerationConfig

    from training.layers import fuse_activations

    check_embedding(tokenizer, int(model.get_input_embeddings().weight.shape[0]), folder)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"{folder}: the tokenizer has no end-of-text token; expected one, since answers end with it. "
            "Set eos_token in tokenizer_config.json."
        )
    model.requires_grad_(False).eval()
    fuse_activations(model)
    # What a checkpoint says of penalties and suppressed tokens would be merged into what a recipe says of decoding.
    model.generation_config = GenerationConfig()
    positions = getattr(model.config, "max_position_embeddings", None) or UNBOUNDED_POSITIONS
    lead_ids = tuple(tokenizer("")["input_ids"])
    if lead_ids and lead_ids[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id:
        lead_ids = lead_ids[:-1]  # appended to every text, not put before it
    return lead_ids, int(tokenizer.eos_token_id), int(positions)


@dataclass(frozen=True)
class OutlinedLanguageModel(LanguageModel):
    """One whose parameters hold nothing, so that it cannot be asked anything."""

    @property
    def embedding_scale(self) -> float:
        return 1.0

    @property
    def shares_prefix(self) -> bool:
        from training.compatibility import takes_block_mask

        return takes_block_mask(self.model)


def outlined_language_model(folder: Path, dtype: torch.dtype) -> OutlinedLanguageModel:
    """From its configuration and its tokenizer alone; for use on the meta device or with fake tensors. Raises
    ConfigError as `load_language_model` does."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    tokenizer = load_tokenizer(folder)
    try:
        with no_init_weights():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(folder, error) from error
    model.tie_weights()
    return OutlinedLanguageModel(model, tokenizer, folder, *_frozen(model, tokenizer, folder))


def _unreadable(folder: Path, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0]
    return ConfigError(
        f"{folder}: no causal language model could be read ({reason}); expected a transformers checkpoint of "
        "a causal language model in safetensors. Name another folder or hub id."
    )


def frozen_digest(module: nn.Module, gathered: Callable[[Any], Any] | None = None) -> str:
    """sha256 over names and bytes of all frozen parameters: equal before and after a training.

    `gathered(parameter)` is a context in which a partitioned parameter is whole (ZeRO-3)."""
    import contextlib

    import torch

    hasher = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            continue
        with gathered(parameter) if gathered else contextlib.nullcontext():
            hasher.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            data = parameter.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
            hasher.update(data.data)  # no copy of it
    return hasher.hexdigest()
