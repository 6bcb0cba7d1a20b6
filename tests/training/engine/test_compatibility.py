from pathlib import Path
from typing import Any

import pytest
import torch
from language_model_families import FAMILIES, families

from infra.errors import ConfigError
from training.compatibility import allows_sharing, check_embeddings_path, num_alike
from training.language_model import frozen_language_model, load_language_model, load_tokenizer

SHAPE = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def language_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return families()[family]().to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_listed_families_take_prefixes_and_share_them(family: str, dtype: torch.dtype) -> None:
    model = language_model(family, dtype)
    check_embeddings_path(model)
    assert allows_sharing(model)


@pytest.mark.shared_data
def test_a_pretrained_model_takes_prefixes_and_shares_them(shared_data: Path) -> None:
    language_model = load_language_model(shared_data / "weights" / "stories260K_hf", torch.float32)
    assert allows_sharing(language_model.model)


def test_a_model_that_reads_token_ids_alone_is_refused(language_model_dir: Path) -> None:
    from transformers import CpmAntConfig, CpmAntForCausalLM

    model = CpmAntForCausalLM(
        CpmAntConfig(vocab_size=101, hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=64, num_hidden_layers=1)
    )
    tokenizer = load_tokenizer(language_model_dir)
    with pytest.raises(ConfigError, match="CpmAntForCausalLM does not take inputs_embeds; expected"):
        frozen_language_model(model, tokenizer, language_model_dir)


def test_a_model_whose_forward_refuses_vectors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2")

    def forward(input_ids: Any = None, inputs_embeds: Any = None, use_cache: bool = False) -> Any:
        raise ValueError(f"You must specify input_ids, not {type(inputs_embeds).__name__}")

    monkeypatch.setattr(model.base_model, "forward", forward)
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel cannot read inputs_embeds \(You must specify input_ids"):
        check_embeddings_path(model)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    config = GraniteConfig(**SHAPE, **TOKENS, intermediate_size=64, logits_scaling=8.0, initializer_range=0.3)
    with pytest.raises(ConfigError, match="its logits are not its output matrix times its last hidden states"):
        check_embeddings_path(GraniteForCausalLM(config).eval())


def test_a_sliding_window_allows_no_sharing() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    def model(window: int | None) -> Any:
        torch.manual_seed(0)
        return MistralForCausalLM(
            MistralConfig(**SHAPE, **TOKENS, intermediate_size=64, num_key_value_heads=2, sliding_window=window)
        ).eval()

    assert allows_sharing(model(None)) and not allows_sharing(model(64))


def test_a_model_without_position_ids_allows_no_sharing() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=101, hidden_size=32, n_layer=2, n_head=4, **TOKENS)
    model = BloomForCausalLM(config).eval()
    check_embeddings_path(model)
    assert not allows_sharing(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("ignored", ["nothing", "attention_mask", "position_ids"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_allows_sharing_when_it_follows_both_the_mask_and_the_positions_it_takes(
    family: str, ignored: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language_model(family, dtype)
    forward = model.base_model.forward

    def deaf(inputs_embeds: Any, attention_mask: Any = None, position_ids: Any = None, use_cache: bool = False) -> Any:
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        if ignored in given and given[ignored] is not None:
            length = inputs_embeds.shape[1]
            causal = torch.full((1, 1, length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)
            given[ignored] = {"attention_mask": causal, "position_ids": torch.arange(length)[None]}[ignored]
        return forward(inputs_embeds=inputs_embeds, use_cache=use_cache, **given)

    monkeypatch.setattr(model.base_model, "forward", deaf)
    assert allows_sharing(model) == (ignored == "nothing")


def test_a_model_that_reads_positions_in_another_way_allows_no_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2")
    forward = model.base_model.forward

    def other(inputs_embeds: Any, attention_mask: Any = None, position_ids: Any = None, use_cache: bool = False) -> Any:
        places = None if position_ids is None else 2 * position_ids
        given = {"attention_mask": attention_mask, "position_ids": places, "use_cache": use_cache}
        return forward(inputs_embeds=inputs_embeds, **given)

    monkeypatch.setattr(model.base_model, "forward", other)
    assert not allows_sharing(model)


def test_tokens_that_pretraining_never_met_are_alike() -> None:
    model = language_model("gpt2")
    assert num_alike(model, 2) == 0
    with torch.no_grad():
        rows = model.get_output_embeddings().weight
        rows[[2, 7, 9]] = rows[2] * torch.tensor([1.0, 1.001, 0.9])[:, None]
    assert [num_alike(model, token) for token in (2, 7, 3)] == [2, 2, 0]
