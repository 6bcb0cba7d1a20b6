"""Texts do not depend on who shares a batch, by any strategy.

Shapes: B rows, P patches, V vision width, K prefix, D LM width, W vocabulary.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_model_families import EOS, MAX_POSITIONS, families, spread
from pydantic import ValidationError
from torch import Tensor

from infra.errors import ConfigError
from training.asking import Asked
from training.generation import Beam, GenerationConfig, Greedy, Sampling, Strategy, generate, generate_scored
from training.language_model import LanguageModel, load_language_model
from training.regimes import apply_regime
from training.regimes.config import AdapterRegime, BitfitRegime, FullRegime, LoraRegime, PrefixRegime, RegimeConfig

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, VOCABULARY, PREFIX = 32, 48, 3
PROMPTS = ["a", "", "abcdefgh", "xyz", "hello there", "q", "what is it", "zz"]
STRATEGIES: list[Strategy] = [
    Greedy(),
    Beam(kind="beam", num_beams=3),
    Beam(kind="beam", num_beams=4, length_penalty=-0.5),
    Sampling(kind="sampling", seed=3),
    Sampling(kind="sampling", temperature=0.7, top_p=0.6),
]
by_every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)


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
        self.weight = torch.randn(8, PREFIX * language.width, generator=torch.Generator().manual_seed(1))

    def prefix(self, patches_BPV: Tensor) -> Tensor:
        return (patches_BPV.mean(dim=1) @ self.weight).unflatten(1, (PREFIX, -1))

    def shared_inputs(self, patches_BPV: Tensor) -> Tensor:
        lead_LD = self.language.model.get_input_embeddings()(torch.tensor(self.language.lead_ids, dtype=torch.long))
        prefix_BKD = self.prefix(patches_BPV).to(lead_LD.dtype)
        return torch.cat([lead_LD.expand(len(patches_BPV), -1, -1), prefix_BKD], dim=1)


@pytest.fixture(params=["gpt2", "llama", "qwen3"])
def language(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    model = families(VOCABULARY, WIDTH)[request.param]()
    spread(model)
    return LanguageModel(model.eval(), Numbers(), Path("tiny"), (1,), EOS, MAX_POSITIONS)


@pytest.fixture
def patches_BPV() -> Tensor:  # noqa: N802
    return _patches(len(PROMPTS))


def _patches(num_images: int) -> Tensor:
    return torch.randn(num_images, 4, 8, generator=torch.Generator().manual_seed(2))


def texts_of(
    language: LanguageModel,
    patches_BPV: Tensor,
    prompts: Sequence[str],
    max_new_tokens: int,
    strategy: Strategy = Greedy(),  # noqa: B008 (frozen)
) -> list[str]:
    """Row by row an image of its own."""
    asked = [
        Asked(str(patches_PV.sum().item()), prompt) for patches_PV, prompt in zip(patches_BPV, prompts, strict=True)
    ]
    config = GenerationConfig(max_new_tokens=max_new_tokens, strategy=strategy)
    return generate(Projection(language), language, patches_BPV, asked, config)


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
    assert texts_of(language, patches_BPV, PROMPTS, 12) == expected
    assert len(set(expected)) > 4


@by_every_strategy
def test_texts_do_not_depend_on_the_batch_nor_on_the_order(language: LanguageModel, strategy: Strategy) -> None:
    """64 rows with prompts of 0 to 40 tokens."""
    patches_BPV, prompts = _patches(64), [f"{'which of these ' * 3}{number}"[: number * 7 % 41] for number in range(64)]
    whole = texts_of(language, patches_BPV, prompts, 12, strategy)
    assert len(set(whole)) > 30
    for batch_size in (1, 3, 16):
        split: list[str] = []
        for start in range(0, 64, batch_size):
            rows = slice(start, start + batch_size)
            split += texts_of(language, patches_BPV[rows], prompts[rows], 12, strategy)
        assert split == whole, batch_size
    assert texts_of(language, patches_BPV.flip(0), prompts[::-1], 12, strategy) == whole[::-1]


def _likelihood(language: LanguageModel, patches_PV: Tensor, prompt: str, text: str, max_new_tokens: int) -> float:
    """Of the text and, where it was not cut, of the end token."""
    ids = [int(word) for word in text.split()]
    ended = ids if len(ids) == max_new_tokens else [*ids, EOS]
    embed = language.model.get_input_embeddings()
    told = [*language.encode([prompt])[0], *ended]
    parts = [
        embed(torch.tensor([language.lead_ids])),
        Projection(language).prefix(patches_PV[None]),
        embed(torch.tensor([told], dtype=torch.long)),
    ]
    logits_TW = language.model(inputs_embeds=torch.cat(parts, dim=1)).logits[0, -len(ended) - 1 : -1]
    return float(logits_TW.log_softmax(dim=-1)[range(len(ended)), ended].sum())


@by_every_strategy
@torch.inference_mode()
def test_a_texts_likelihood_is_that_of_its_tokens_and_of_its_end(language: LanguageModel, strategy: Strategy) -> None:
    """And to five digits the same for every batch size."""
    patches_BPV, prompts = _patches(16), [f"{'which of these ' * 3}{number}"[: number * 7 % 41] for number in range(16)]
    asked = [Asked(str(number), prompt) for number, prompt in enumerate(prompts)]
    config, model = GenerationConfig(max_new_tokens=8, strategy=strategy), Projection(language)
    whole = generate_scored(model, language, patches_BPV, asked, config)
    for patches_PV, prompt, reply in zip(patches_BPV, prompts, whole, strict=True):
        assert reply.log_likelihood == pytest.approx(_likelihood(language, patches_PV, prompt, reply.text, 8), abs=1e-4)
    for size in (1, 3):
        parts = [
            generate_scored(model, language, patches_BPV[start : start + size], asked[start : start + size], config)
            for start in range(0, 16, size)
        ]
        split = [reply for part in parts for reply in part]
        assert [reply.text for reply in split] == [reply.text for reply in whole]
        found, expected = ([reply.log_likelihood for reply in replies] for replies in (split, whole))
        assert found == pytest.approx(expected, rel=1e-5)


@torch.inference_mode()
def test_beam_search_finds_likelier_texts_than_greedy(language: LanguageModel, patches_BPV: Tensor) -> None:
    """Without a length penalty, in sum over rows; a single row may lose its greedy beginning."""
    beam = Beam(kind="beam", num_beams=6, length_penalty=0.0)
    found = {}
    for strategy in (Greedy(), beam):
        texts = texts_of(language, patches_BPV, PROMPTS, 8, strategy)
        rows = zip(patches_BPV, PROMPTS, texts, strict=True)
        found[strategy.kind] = sum(_likelihood(language, *row, 8) for row in rows)
    assert found["beam"] > found["greedy"] + 0.1


def test_what_a_checkpoint_says_of_decoding_is_not_followed(language_model_dir: Path, tmp_path: Path) -> None:
    """`transformers` would merge it into what it is told."""
    opinionated = tmp_path / "opinionated"
    shutil.copytree(language_model_dir, opinionated)
    told = {"repetition_penalty": 5.0, "min_new_tokens": 12, "suppress_tokens": list(range(8))}
    (opinionated / "generation_config.json").write_text(json.dumps(told))
    plain, other = (load_language_model(folder, torch.float32) for folder in (language_model_dir, opinionated))
    prompts, beam = ["a", "which digit", "", "colour"], Beam(kind="beam", num_beams=3)
    expected = texts_of(plain, _patches(4), prompts, 12, beam)
    assert texts_of(other, _patches(4), prompts, 12, beam) == expected
    assert len(set(expected)) > 1


def test_draws_follow_from_seed_image_and_prompt(language: LanguageModel, patches_BPV: Tensor) -> None:
    same_BPV = patches_BPV[:1].expand(4, -1, -1)
    asked = [Asked("one", "x"), Asked("two", "x"), Asked("one", "x"), Asked("one", "x")]

    def drawn(seed: int) -> list[str]:
        config = GenerationConfig(max_new_tokens=12, strategy=Sampling(kind="sampling", temperature=3.0, seed=seed))
        return generate(Projection(language), language, same_BPV, asked, config)

    first, other, *again = drawn(0)
    assert again == [first, first]
    assert other != first
    assert drawn(1)[0] != first


@torch.inference_mode()
def test_first_tokens_are_drawn_as_often_as_they_are_likely(language: LanguageModel, patches_BPV: Tensor) -> None:
    """Of 4000 draws; and within `top_p` only the likeliest that reach it, as often as they are among themselves."""
    temperature = 2.0
    config = GenerationConfig(max_new_tokens=1, strategy=Sampling(kind="sampling", temperature=temperature))
    nucleus = config.model_copy(update={"strategy": Sampling(kind="sampling", temperature=temperature, top_p=0.5)})
    many_BPV = patches_BPV[:1].expand(4000, -1, -1)
    asked = [Asked(str(number), "") for number in range(4000)]
    model = Projection(language)
    logits_W = language.model(inputs_embeds=model.shared_inputs(patches_BPV[:1])).logits[0, -1]
    likely_W = (logits_W.double() / temperature).softmax(dim=-1)
    order = likely_W.argsort(descending=True).tolist()
    inside = order[: int((likely_W[order].cumsum(dim=0) < 0.5).sum()) + 1]
    within_W = torch.zeros_like(likely_W)
    within_W[inside] = likely_W[inside] / likely_W[inside].sum()
    for told, expected_W in ((config, likely_W), (nucleus, within_W)):
        counts_W = torch.zeros_like(likely_W)
        for text in generate(model, language, many_BPV, asked, told):
            counts_W[int(text) if text else EOS] += 1
        assert (counts_W[expected_W == 0] == 0).all()
        # Five standard deviations of each count.
        assert ((counts_W / 4000 - expected_W).abs() <= 5 * (expected_W / 4000).sqrt() + 1e-9).all()


@pytest.mark.parametrize("strategy", [Greedy(), Sampling(kind="sampling")], ids=repr)
def test_a_text_ends_at_the_end_token_and_others_go_on(
    language: LanguageModel, patches_BPV: Tensor, strategy: Strategy
) -> None:
    """A token that one row emits early is made the end token: that row stops, the others stay as they were."""
    endless = replace(language, eos_id=-1)
    whole = [text.split() for text in texts_of(endless, patches_BPV, PROMPTS, 20, strategy)]
    eos = whole[2][3]
    ended = replace(language, eos_id=int(eos))
    texts = [text.split() for text in texts_of(ended, patches_BPV, PROMPTS, 20, strategy)]
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
@pytest.mark.parametrize("strategy", [STRATEGIES[0], STRATEGIES[1], STRATEGIES[3]], ids=lambda strategy: strategy.kind)
def test_a_bf16_language_model_answers_in_every_regime(
    language: LanguageModel, patches_BPV: Tensor, regime: RegimeConfig, strategy: Strategy
) -> None:
    """What was trained is fp32 between bf16 matrices: only autocast multiplies the two."""
    apply_regime(regime, language.model.bfloat16(), seed=0)
    texts = texts_of(language, patches_BPV, PROMPTS, 6, strategy)
    assert len(set(texts)) > 4


def test_no_prompts_give_no_texts(language: LanguageModel, patches_BPV: Tensor) -> None:
    assert texts_of(language, patches_BPV[:0], [], 5) == []


@by_every_strategy
def test_rows_that_do_not_fit_are_refused(language: LanguageModel, patches_BPV: Tensor, strategy: Strategy) -> None:
    with pytest.raises(ConfigError, match="129 positions; expected at most the language model's 128"):
        texts_of(language, patches_BPV[:1], [""], MAX_POSITIONS - PREFIX, strategy)


@pytest.mark.parametrize(
    "told",
    [
        {"kind": "beam", "temperature": 0.5},
        {"kind": "beam", "num_beams": 1},
        {"kind": "sampling", "top_p": 0.0},
        {"kind": "greedy", "seed": 1},
    ],
)
def test_a_setting_that_a_strategy_has_not_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GenerationConfig.model_validate({"max_new_tokens": 5, "strategy": told})
