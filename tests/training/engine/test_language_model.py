from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infra.errors import ConfigError
from training.language_model import frozen_digest, load_language_model


def test_a_loaded_model_is_frozen(language_model_dir: Path) -> None:
    language_model = load_language_model(language_model_dir, torch.bfloat16)
    assert language_model.model.dtype == torch.bfloat16 and not language_model.model.training
    assert not any(p.requires_grad for p in language_model.model.parameters())
    assert language_model.lead_ids == () and language_model.eos_id == 0 and language_model.max_positions == 128


def test_a_changed_parameter_changes_the_digest(language_model_dir: Path) -> None:
    model = load_language_model(language_model_dir, torch.float32).model
    before = frozen_digest(model)
    assert frozen_digest(load_language_model(language_model_dir, torch.float32).model) == before
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0].add_(1e-6)
    assert frozen_digest(model) != before


def test_a_tokenizer_larger_than_the_model_is_one_clear_sentence(
    tmp_path: Path, language_model_dir: Path, write_tokenizer: Callable[..., int]
) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(language_model_dir, dtype=torch.float32).save_pretrained(tmp_path)
    num_tokens = write_tokenizer(tmp_path, extra_tokens=40)
    with pytest.raises(ConfigError, match=f"tokenizer has {num_tokens} tokens; expected at most the 22 rows"):
        load_language_model(tmp_path, torch.float32)


def test_weights_that_are_not_safetensors_are_not_read(
    tmp_path: Path, language_model_dir: Path, write_tokenizer: Callable[..., int]
) -> None:
    from safetensors.torch import load_file

    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_bytes((language_model_dir / "config.json").read_bytes())
    torch.save(load_file(language_model_dir / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no causal language model could be read"):
        load_language_model(tmp_path, torch.float32)


def test_an_empty_folder_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer could be read"):
        load_language_model(tmp_path, torch.float32)
