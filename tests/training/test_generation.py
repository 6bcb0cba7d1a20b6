"""Greedy texts do not depend on who shares a batch. Shapes: B rows, P patches, V vision width, K prefix, D LM width."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from infra.errors import ConfigError
from training.generation import generate
from training.language_model import LanguageModel
from training.regimes import apply_regime
from training.regimes.config import AdapterRegime, BitfitRegime, FullRegime, LoraRegime, PrefixRegime, RegimeConfig

WIDTH, PREFIX, EOS, POSITIONS = 32, 3, 2, 64
PROMPTS = ["a", "", "abcdefgh", "xyz", "hello there", "q", "what is it", "zz"]


class Numbers:
    """A tokenizer whose texts show the token ids."""

    def __call__(self, texts: Sequence[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[ord(letter) % 40 + 3 for letter in text] for text in texts]}

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [f"  {' '.join(map(str, row))} " for row in rows]


class Projection:
    """A lead, and a mapper that is one matrix."""

    def __init__(self, language: LanguageModel) -> None:
        self.language = language
        self.weight = torch.randn(8, PREFIX * WIDTH, generator=torch.Generator().manual_seed(1))

    def prefix(self, patches_BPV: Tensor) -> Tensor:
        return (patches_BPV.mean(dim=1) @ self.weight).unflatten(1, (PREFIX, WIDTH))

    def shared_inputs(self, patches_BPV: Tensor) -> Tensor:
        lead_LD = self.language.model.get_input_embeddings()(torch.tensor(self.language.lead_ids, dtype=torch.long))
        prefix_BKD = self.prefix(patches_BPV).to(lead_LD.dtype)
        return torch.cat([lead_LD.expand(len(patches_BPV), -1, -1), prefix_BKD], dim=1)


def _model(kind: str) -> Any:
    heads: dict[str, Any] = {
        "vocab_size": 48,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**heads))
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**heads, num_key_value_heads=1, head_dim=16))
    names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    names |= {"intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}
    return GPT2LMHeadModel(GPT2Config(**{names.get(name, name): value for name, value in heads.items()}))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on tensors this small spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["gpt2", "llama", "qwen3"])
def language(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    model = _model(request.param)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return LanguageModel(model.eval(), Numbers(), Path("tiny"), (1,), EOS, POSITIONS)


@pytest.fixture
def patches_BPV() -> Tensor:  # noqa: N802
    return torch.randn(len(PROMPTS), 4, 8, generator=torch.Generator().manual_seed(2))


def _plain(language: LanguageModel, patches_PV: Tensor, prompt: str, max_new_tokens: int) -> str:
    """One row, no padding, no cache, everything computed anew for every token."""
    embed = language.model.get_input_embeddings()
    prefix_1KD = Projection(language).prefix(patches_PV[None])
    after = list(language.encode([prompt])[0])
    new: list[int] = []
    for _ in range(max_new_tokens):
        lead_1LD = embed(torch.tensor([language.lead_ids]))
        text_1TD = embed(torch.tensor([after + new], dtype=torch.long))
        logits = language.model(inputs_embeds=torch.cat([lead_1LD, prefix_1KD, text_1TD], dim=1)).logits
        token = int(logits[0, -1].argmax())
        if token == EOS:
            break
        new.append(token)
    return " ".join(map(str, new))


@torch.inference_mode()
def test_texts_are_those_of_a_plain_loop(language: LanguageModel, patches_BPV: Tensor) -> None:
    expected = [_plain(language, patches_BPV[row], prompt, 12) for row, prompt in enumerate(PROMPTS)]
    assert generate(Projection(language), language, patches_BPV, PROMPTS, 12) == expected
    assert len(set(expected)) > 4


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_do_not_depend_on_the_batch_size(language: LanguageModel, patches_BPV: Tensor, batch_size: int) -> None:
    whole = generate(Projection(language), language, patches_BPV, PROMPTS, 20)
    split: list[str] = []
    for start in range(0, len(PROMPTS), batch_size):
        rows = slice(start, start + batch_size)
        split += generate(Projection(language), language, patches_BPV[rows], PROMPTS[rows], 20)
    assert split == whole


def test_a_text_ends_at_the_end_token_and_others_go_on(language: LanguageModel, patches_BPV: Tensor) -> None:
    """A token that one row emits early is made the end token: that row stops, the others stay as they were."""
    endless = replace(language, eos_id=-1)
    whole = [text.split() for text in generate(Projection(language), endless, patches_BPV, PROMPTS, 20)]
    eos = whole[2][3]
    ended = replace(language, eos_id=int(eos))
    texts = [text.split() for text in generate(Projection(language), ended, patches_BPV, PROMPTS, 20)]
    assert texts == [words[: words.index(eos)] if eos in words else words for words in whole]


@pytest.mark.parametrize(
    "regime",
    [
        PrefixRegime(),
        LoraRegime(kind="lora", learning_rate=1e-3, target_modules="all-linear"),
        BitfitRegime(kind="bitfit", learning_rate=1e-3, norms=True),
        AdapterRegime(kind="adapter", learning_rate=1e-3, width=4),
        FullRegime(kind="full", learning_rate=1e-3),
    ],
    ids=lambda regime: regime.kind,
)
def test_a_bf16_language_model_answers_in_every_regime(
    language: LanguageModel, patches_BPV: Tensor, regime: RegimeConfig
) -> None:
    """What was trained is fp32 between bf16 matrices: only autocast multiplies the two."""
    apply_regime(regime, language.model.bfloat16(), seed=0)
    texts = generate(Projection(language), language, patches_BPV, PROMPTS, 6)
    assert len(set(texts)) > 4


def test_no_prompts_give_no_texts(language: LanguageModel, patches_BPV: Tensor) -> None:
    assert generate(Projection(language), language, patches_BPV[:0], [], 5) == []


def test_rows_that_do_not_fit_are_refused(language: LanguageModel, patches_BPV: Tensor) -> None:
    with pytest.raises(ConfigError, match="65 positions; expected at most the language model's 64"):
        generate(Projection(language), language, patches_BPV[:1], [""], POSITIONS - PREFIX)
