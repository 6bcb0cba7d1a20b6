"""Shapes: B rows, L positions, D LM width, C vocabulary."""

from typing import Any

import pytest
import torch
from language_model_families import FAMILIES, MAX_POSITIONS, NUM_HEADS, NUM_LAYERS, TIED, families
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import ConfigError
from training.language_model import frozen_digest
from training.regimes import ModuleCount, apply_regime, set_train_mode, trained_and_frozen
from training.regimes.adapter import Adapter
from training.regimes.config import RegimeConfig

VOCABULARY, WIDTH, HIDDEN, KEY_WIDTH = 101, 32, 64, 16
LEARNED_BIASES = ("gpt2", "gpt_neox", "opt")
RANK, BOTTLENECK, PROMPT = 4, 6, 3
QUERY_VALUE = ("q_proj", "v_proj")


def regime(kind: str, **fields: Any) -> RegimeConfig:
    rate = {} if kind == "prefix" else {"learning_rate": 1e-2}
    return TypeAdapter(RegimeConfig).validate_python({"kind": kind, **rate, **fields})


def regimes_of(family: str) -> dict[str, RegimeConfig]:
    """Each regime that has something to train in this family, by a name for the test."""
    default = {"target_modules": QUERY_VALUE} if family == "smollm3" else {}  # PEFT has no default for it
    found = {
        "prefix": regime("prefix"),
        "lora": regime("lora", rank=RANK, **default),
        "lora-all": regime("lora", rank=RANK, target_modules="all-linear"),
        "prompt": regime("prompt", num_tokens=PROMPT),
        "bitfit-norms": regime("bitfit", norms=True),
        "adapter": regime("adapter", width=BOTTLENECK),
        "full": regime("full"),
    }
    return found | ({"bitfit": regime("bitfit")} if family in LEARNED_BIASES else {})


CASES = [pytest.param(family, name, id=f"{family}-{name}") for family in FAMILIES for name in regimes_of(family)]


def language_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return families(VOCABULARY, WIDTH)[family]().to(dtype).eval()


def logits(model: Any, soft_prompt: nn.Module | None = None) -> Tensor:
    """[B, L, C] of fixed random tokens, behind the soft prompt where there is one."""
    tokens_BL = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    inputs_BLD = model.get_input_embeddings()(tokens_BL)
    if soft_prompt is not None:
        inputs_BLD = torch.cat([soft_prompt().to(inputs_BLD.dtype).expand(2, -1, -1), inputs_BLD], dim=1)
    return model(inputs_embeds=inputs_BLD, use_cache=False).logits


def trained_of(model: nn.Module, soft_prompt: nn.Module | None) -> dict[str, nn.Parameter]:
    whole = nn.ModuleDict({"lm": model} | ({"soft_prompt": soft_prompt} if soft_prompt is not None else {}))
    return {name: parameter for name, parameter in whole.named_parameters() if parameter.requires_grad}


def take_steps(model: nn.Module, soft_prompt: nn.Module | None, num_steps: int = 3) -> None:
    trained = list(trained_of(model, soft_prompt).values())
    if not trained:
        return
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    targets_N = torch.randint(0, VOCABULARY, (14,), generator=torch.Generator().manual_seed(2))
    for _ in range(num_steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            found = logits(model, soft_prompt)[:, -7:].flatten(0, 1)
        functional.cross_entropy(found.float(), targets_N).backward()
        optimizer.step()


def expected_count(family: str, name: str) -> int:
    """By hand: D = 32 LM width, H = 64 of the perceptrons, E = 16 of grouped keys and values, r rank, w bottleneck."""
    D, H, E, r, w = WIDTH, HIDDEN, KEY_WIDTH, RANK, BOTTLENECK
    biases = 3 * D + D + H + D + 2 * D  # query-key-value, attention output, perceptron, two norms
    gains = 2 * D + (2 * D // NUM_HEADS if family == "qwen3" else 0)
    attention = {"gpt2": r * 4 * D, "gpt_neox": r * 4 * D, "opt": 2 * r * 2 * D}.get(family, r * 2 * D + r * (D + E))
    if family in LEARNED_BIASES:
        every = (4 * r * 2 * D if family == "opt" else r * 4 * D + r * 2 * D) + 2 * r * (D + H)
        vectors, final = biases + gains, 2 * D
        matrices = 4 * D * D + 2 * D * H
    else:
        every = 2 * r * 2 * D + 2 * r * (D + E) + 3 * r * (D + H)
        vectors, final = gains, D
        matrices = 2 * D * D + 2 * D * E + 3 * D * H
    places = {"gpt2": MAX_POSITIONS * D, "opt": (MAX_POSITIONS + 2) * D}.get(family, 0)
    embeddings = VOCABULARY * D * (1 if family in TIED else 2) + places
    return {
        "prefix": 0,
        "lora": NUM_LAYERS * attention,
        "lora-all": NUM_LAYERS * every,
        "prompt": PROMPT * D,
        "bitfit": NUM_LAYERS * biases + D,
        "bitfit-norms": NUM_LAYERS * vectors + final,
        "adapter": NUM_LAYERS * (D * w + w + w * D + D),
        "full": embeddings + NUM_LAYERS * (matrices + vectors) + final,
    }[name]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_number_of_trained_parameters_is_that_of_the_formula(family: str, name: str) -> None:
    model = language_model(family)
    soft_prompt = apply_regime(regimes_of(family)[name], model, seed=0)
    trained = trained_of(model, soft_prompt)
    assert sum(parameter.numel() for parameter in trained.values()) == expected_count(family, name)
    assert (soft_prompt is not None) == (name == "prompt")


@pytest.mark.parametrize(("family", "name"), CASES)
def test_training_changes_all_that_is_trained_and_nothing_that_is_frozen(family: str, name: str) -> None:
    model = language_model(family)
    soft_prompt = apply_regime(regimes_of(family)[name], model, seed=0)
    digest = frozen_digest(model)
    before = {key: parameter.detach().clone() for key, parameter in trained_of(model, soft_prompt).items()}
    take_steps(model, soft_prompt)
    assert frozen_digest(model) == digest
    after = trained_of(model, soft_prompt)
    assert [key for key, value in before.items() if torch.equal(value, after[key])] == []


@pytest.mark.parametrize(("family", "name"), CASES)
def test_trained_parameters_are_fp32_in_a_bf16_language_model_and_train_there(family: str, name: str) -> None:
    model = language_model(family, torch.bfloat16)
    soft_prompt = apply_regime(regimes_of(family)[name], model, seed=0)
    trained = trained_of(model, soft_prompt)
    assert {parameter.dtype for parameter in trained.values()} <= {torch.float32}
    matrices = [p for p in model.parameters() if not p.requires_grad and p.ndim > 1]
    assert {parameter.dtype for parameter in matrices} == (set() if name == "full" else {torch.bfloat16})
    before = {key: parameter.detach().clone() for key, parameter in trained.items()}
    digest = frozen_digest(model)
    take_steps(model, soft_prompt)
    assert frozen_digest(model) == digest
    assert all(not torch.equal(before[key], parameter) for key, parameter in trained.items())
    assert all(parameter.isfinite().all() for parameter in trained.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["lora-all", "adapter"])
@pytest.mark.parametrize("family", FAMILIES)
def test_injected_modules_compute_the_identity_at_the_start(family: str, name: str, dtype: torch.dtype) -> None:
    model = language_model(family, dtype)
    before = logits(model)
    apply_regime(regimes_of(family)[name], model, seed=0)
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)
    take_steps(model, None)
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("name", ["lora", "prompt", "adapter"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_new_parameters_are_a_function_of_the_seed_alone(family: str, name: str) -> None:
    def made(seed: int, draws_before: int) -> dict[str, Tensor]:
        model = language_model(family)
        torch.rand(draws_before)
        return trained_of(model, apply_regime(regimes_of(family)[name], model, seed))

    first, again, other = made(5, 0), made(5, 3), made(6, 0)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["lora", "prompt", "adapter", "full"])
def test_a_regime_leaves_the_callers_generator_alone(name: str) -> None:
    model = language_model("gpt2")
    state = torch.random.get_rng_state()
    apply_regime(regimes_of("gpt2")[name], model, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["lora-all", "adapter", "full", "bitfit-norms"])
@pytest.mark.parametrize("family", TIED)
def test_tied_embeddings_stay_tied(family: str, name: str) -> None:
    model = language_model(family, torch.bfloat16)
    apply_regime(regimes_of(family)[name], model, seed=0)
    take_steps(model, None)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_soft_prompt_starts_at_the_scale_of_the_embeddings() -> None:
    model = language_model("gpt2")
    soft_prompt = apply_regime(regime("prompt", num_tokens=64), model, seed=0)
    assert soft_prompt is not None
    vectors = soft_prompt()
    assert vectors.shape == (64, WIDTH) and vectors.dtype == torch.float32
    assert 0.7 < vectors.std() / model.get_input_embeddings().weight.std() < 1.4


def test_an_adapter_adds_the_same_to_hidden_states_of_any_scale() -> None:
    adapter = Adapter(WIDTH, BOTTLENECK)
    nn.init.normal_(adapter.up.weight)
    hidden_BLD = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(
        adapter(100 * hidden_BLD) - 100 * hidden_BLD, adapter(hidden_BLD) - hidden_BLD, atol=1e-3, rtol=0
    )


def test_lora_drops_out_in_training_while_the_language_models_own_dropout_stays_off() -> None:
    model = language_model("gpt2")
    assert model.config.resid_pdrop > 0  # what must stay off
    apply_regime(regime("lora", dropout=0.5), model, seed=0)
    take_steps(model, None)
    set_train_mode(model, True)
    assert not torch.equal(logits(model), logits(model))
    set_train_mode(model, False)
    assert torch.equal(logits(model), logits(model))
    plain = language_model("gpt2")
    apply_regime(regime("adapter", width=2), plain, seed=0)
    set_train_mode(plain, True)
    assert torch.equal(logits(plain), logits(plain))


def test_what_is_trained_and_frozen_is_listed_by_module_over_all_layers() -> None:
    model = language_model("gpt2")
    apply_regime(regime("lora", rank=RANK), model, seed=0)
    listed = {count.module: count for count in trained_and_frozen(nn.ModuleDict({"lm": model}))}
    layer = "lm.transformer.h.*.attn.c_attn"
    num_down = NUM_LAYERS * RANK * WIDTH
    assert listed[f"{layer}.lora_A.default"] == ModuleCount(f"{layer}.lora_A.default", num_down, 0)
    assert listed[f"{layer}.lora_B.default"].num_trained == 3 * num_down
    assert listed[f"{layer}.base_layer"].num_frozen == NUM_LAYERS * 3 * (WIDTH * WIDTH + WIDTH)
    numbers = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(count.num_trained for count in listed.values()) == sum(number for number, trained in numbers if trained)
    assert sum(count.num_frozen for count in listed.values()) == sum(
        number for number, trained in numbers if not trained
    )


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3"])
def test_bitfit_on_a_model_without_biases_says_what_to_use(family: str) -> None:
    with pytest.raises(ConfigError, match=r"no biases in \w+; .* `lora` or `adapter`, or set regime.norms to true"):
        apply_regime(regime("bitfit"), language_model(family), seed=0)


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("smollm3", None, "PEFT has no default for models of type smollm3"),
        ("llama", ("q_proj", "vproj"), r"names \['vproj'\], which LlamaForCausalLM has not; .* 'v_proj'\]"),
        ("gpt2", ("mlp",), "cannot update .* expected linear layers"),
    ],
)
def test_lora_with_nothing_to_update_says_what_to_name(
    family: str, targets: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_regime(regime("lora", target_modules=targets), language_model(family), seed=0)


@pytest.mark.parametrize(
    "fields", [{"kind": "lora"}, {"kind": "adapter", "learning_rate": 1e-3}, {"kind": "prefix", "rank": 2}]
)
def test_an_incomplete_regime_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TypeAdapter(RegimeConfig).validate_python(fields)
