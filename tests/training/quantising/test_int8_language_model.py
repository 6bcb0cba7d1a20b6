"""Shapes: B rows, L positions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from language_model_families import FAMILIES, TIED, families, spread
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from tiny_language_model import save_tokenizer

from infra.errors import IntegrityError
from training.config import TrainConfig
from training.language_model import LanguageModel, load_language_model
from training.objectives.answer_space import AnswerSpace
from training.prefix_model import build_prefix_model, trainable_state
from training.quantising.language_model import (
    NOTE,
    TENSORS,
    Int8LanguageModel,
    install,
    int8_tensors,
    load_int8,
    merge_updates,
    note_of,
    save_int8,
)
from training.quantising.layers import Int8Embedding, Int8Linear
from training.regimes import apply_regime
from training.regimes.config import PrefixRegime, RegimeConfig
from training.trained import put_together_in_int8

IDS_BL = torch.arange(60).reshape(3, 20) % 22
REGIMES: dict[str, dict[str, Any]] = {
    "prefix": {},
    "lora": {"rank": 4, "target_modules": "all-linear"},
    "prompt": {"num_tokens": 3},
    "bitfit": {"norms": True},
    "adapter": {"width": 6},
    "full": {},
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In every test of this file."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """saved(family) -> a checkpoint folder."""
    root = tmp_path_factory.mktemp("families")

    def made(family: str) -> Path:
        if not (root / family).exists():
            torch.manual_seed(0)
            model = families()[family]()
            spread(model)
            model.save_pretrained(root / family)
            save_tokenizer(root / family)
        return root / family

    return made


def regime(kind: str) -> RegimeConfig:
    rate = {} if kind == "prefix" else {"learning_rate": 1e-2}
    return TypeAdapter(RegimeConfig).validate_python({"kind": kind, **rate, **REGIMES[kind]})


def in_int8(language: LanguageModel, original: Path, folder: Path) -> Int8LanguageModel:
    note = note_of(language)
    tensors, is_tied = int8_tensors(language.model)
    save_int8(tensors, note.model_copy(update={"is_tied": is_tied}), original, folder)
    return load_int8(folder, PrefixRegime())


def logits_of(language: LanguageModel, ids_BL: torch.Tensor = IDS_BL) -> torch.Tensor:
    with torch.inference_mode():
        return language.model(input_ids=ids_BL).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_says_nearly_the_same_in_int8_and_what_is_asked_of_a_model_holds(
    saved: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    language = load_language_model(saved(family), torch.float32)
    small = in_int8(language, saved(family), tmp_path / "int8")
    expected, found = logits_of(language), logits_of(small)
    # Matrices this wide and random leave more of the rounding than trained ones do.
    assert (found - expected).norm() < 0.12 * expected.norm()
    assert torch.equal(logits_of(small, IDS_BL[:1]), found[:1])
    for name in ("width", "embedding_scale", "shares_prefix", "lead_ids", "eos_id", "max_positions"):
        assert getattr(small, name) == getattr(language, name), name
    assert small.model.dtype == torch.float32 and not small.model.training
    assert not any(type(module) is torch.nn.Linear for module in small.model.modules())
    assert not any(parameter.requires_grad for parameter in small.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_gives_the_same_bytes_and_files_give_the_model_that_was_in_memory(
    saved: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    language = load_language_model(saved(family), torch.float32)
    small = in_int8(language, saved(family), tmp_path / "one")
    in_int8(load_language_model(saved(family), torch.float32), saved(family), tmp_path / "two")
    both = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert both[0] == both[1] and {TENSORS, NOTE, "config.json", "tokenizer.json"} <= both[0].keys()
    tensors, is_tied = int8_tensors(language.model)
    install(language.model, tensors, small.note.model_copy(update={"is_tied": is_tied}))
    assert torch.equal(logits_of(language), logits_of(small))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_output_matrix_is_stored_once(saved: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    small = in_int8(load_language_model(saved(family), torch.float32), saved(family), tmp_path / "int8")
    assert small.note.is_tied == (family in TIED)
    tables = [tensor for name, tensor in load_file(tmp_path / "int8" / TENSORS).items() if tensor.shape == (101, 32)]
    assert len(tables) == (1 if family in TIED else 2) and all(table.dtype == torch.int8 for table in tables)
    assert isinstance(small.model.get_output_embeddings(), Int8Linear)
    assert isinstance(small.model.get_input_embeddings(), Int8Embedding)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_updates_say_what_they_said_beside_the_matrices(saved: Callable[[str], Path], family: str) -> None:
    language = load_language_model(saved(family), torch.float32)
    apply_regime(regime("lora"), language.model, seed=0)
    for parameter in language.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    before = logits_of(language)
    merge_updates(language.model)
    assert (logits_of(language) - before).abs().max() <= 1e-5 * before.abs().max()
    assert not any("lora" in name for name, _ in language.model.named_parameters())


@pytest.mark.parametrize("kind", REGIMES)
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_what_each_regime_trained_is_in_the_int8_model(
    saved: Callable[[str], Path], tmp_path: Path, family: str, kind: str
) -> None:
    config = TrainConfig.model_validate(
        {
            "mapper": {"kind": "linear", "prefix_tokens": 2},
            "regime": regime(kind).model_dump(),
            "global_batch_images": 1,
            "epochs": 1,
            "learning_rate": 0.1,
        }
    )
    language = load_language_model(saved(family), torch.float32)
    note = note_of(language)
    model = build_prefix_model(config, language, (4, 8), AnswerSpace())
    torch.manual_seed(1)
    for parameter in model.trained().values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    outside = {name: value for name, value in trainable_state(model).items() if not name.startswith("lm.")}
    save_file(outside, tmp_path / "weights")
    patches_BPV = torch.randn(2, 4, 8)

    def said(one: Any) -> torch.Tensor:
        with torch.inference_mode():
            return one.lm(inputs_embeds=one.shared_inputs(patches_BPV)).logits

    model.eval()
    expected = said(model)
    merge_updates(model.lm)
    tensors, is_tied = int8_tensors(model.lm)
    save_int8(tensors, note.model_copy(update={"is_tied": is_tied}), saved(family), tmp_path / "int8")
    small, _ = put_together_in_int8(config, AnswerSpace(), (4, 8), tmp_path / "int8", tmp_path / "weights")
    found = said(small.eval())
    untrained = said(
        build_prefix_model(config, load_language_model(saved(family), torch.float32), (4, 8), AnswerSpace())
    )
    assert (found - expected).norm() < 0.12 * expected.norm()
    assert (found - expected).norm() < 0.5 * (untrained - expected).norm()


@pytest.mark.parametrize("altered", ["lost", "added", "reshaped", "of another model"])
def test_tensors_that_are_not_the_models_own_are_refused(
    saved: Callable[[str], Path], tmp_path: Path, altered: str
) -> None:
    in_int8(load_language_model(saved("llama"), torch.float32), saved("llama"), tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    name = "model.layers.1.mlp.up_proj.int8"
    if altered == "lost":
        del tensors[name]
    elif altered == "added":
        tensors["model.layers.9.mlp.up_proj.int8"] = tensors[name].clone()
    elif altered == "reshaped":
        tensors[name] = tensors[name].t().contiguous()
    else:
        (tmp_path / "config.json").write_bytes((saved("qwen3") / "config.json").read_bytes())
    save_file(tensors, tmp_path / TENSORS)
    with pytest.raises(IntegrityError, match=r"int8\.safetensors: found .*; expected exactly the tensors of"):
        load_int8(tmp_path, PrefixRegime())


def test_a_torn_file_is_one_clear_sentence(saved: Callable[[str], Path], tmp_path: Path) -> None:
    in_int8(load_language_model(saved("llama"), torch.float32), saved("llama"), tmp_path)
    (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="no int8 language model could be read"):
        load_int8(tmp_path, PrefixRegime())
