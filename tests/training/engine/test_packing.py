"""Shapes: B images, P patches, V vision width, D LM width, N target tokens, C vocabulary."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.language_model import LanguageModel
from training.mappers import MapperShape, build_mapper
from training.mappers.config import MapperConfig, MlpConfig, TransformerConfig
from training.packing import Branch, PackedImage, pack
from training.prefix_model import PrefixModel

VOCABULARY, WIDTH = 101, 32
MAPPERS = [
    MlpConfig(kind="mlp", prefix_tokens=4, width=16, pooling="flatten"),
    MlpConfig(kind="mlp", prefix_tokens=1, width=16),
    TransformerConfig(kind="transformer", prefix_tokens=4, width=16, num_layers=2, num_heads=2),
]


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=128, n_embd=WIDTH, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
        )
    )


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128,
        )
    )  # fmt: skip


def prefix_model(family: Any, mapper: MapperConfig, lead_ids: tuple[int, ...]) -> tuple[PrefixModel, LanguageModel]:
    torch.manual_seed(0)
    model = family().requires_grad_(False).eval()
    language_model = LanguageModel(model, None, Path("memory"), lead_ids, 2, 128)
    shape = MapperShape(5, 8, WIDTH, language_model.embedding_scale)
    return PrefixModel(build_mapper(mapper, shape), language_model, 2, autocast=False), language_model


def ragged_images(num_images: int) -> tuple[list[PackedImage], "np.ndarray"]:
    """1 to 6 targets per image, prompts of 0 to 3 tokens, targets of 1 to 5."""
    draw = random.Random(0)

    def tokens(fewest: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(fewest, most)))

    images = [
        PackedImage(
            str(number),
            tuple(
                Branch("e", draw.randrange(2), tokens(0, 3), tokens(1, 5), draw.uniform(0.1, 2))
                for _ in range(draw.randint(1, 6))
            ),
        )
        for number in range(num_images)
    ]
    patches = np.random.default_rng(0).normal(size=(num_images, 5, 8)).astype(np.float16)
    return images, patches


def unshared_losses(
    model: PrefixModel, language_model: LanguageModel, images: list[PackedImage], patches_BPV: "np.ndarray"
) -> Tensor:
    """Weighted loss by one sequence per target, with logits everywhere."""
    embed = language_model.model.get_input_embeddings()
    parts = []
    for number, image in enumerate(images):
        prefix = model.prefix(torch.from_numpy(patches_BPV[number : number + 1]))
        lead = embed(torch.tensor([language_model.lead_ids], dtype=torch.long))
        for branch in image.branches:
            tokens = torch.tensor([branch.prompt_ids + branch.target_ids])
            logits = language_model.model(inputs_embeds=torch.cat([lead, prefix, embed(tokens)], dim=1)).logits[0]
            num_targets = len(branch.target_ids)
            losses = functional.cross_entropy(logits[-num_targets - 1 : -1], tokens[0, -num_targets:], reduction="none")
            parts.append(branch.weight * losses)
    return torch.cat(parts)


@pytest.mark.parametrize("lead_ids", [(), (1,)])
@pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: f"{mapper.kind}-{mapper.prefix_tokens}")
@pytest.mark.parametrize("family", [gpt2, llama])
def test_shared_prefix_has_the_loss_and_gradients_of_one_sequence_per_target(
    family: Any, mapper: MapperConfig, lead_ids: tuple[int, ...]
) -> None:
    model, language_model = prefix_model(family, mapper, lead_ids)
    images, patches_BPV = ragged_images(5)
    weights = sum(image.weighted_targets for image in images)
    losses = model(pack(images, patches_BPV))
    (losses.weighted_sum / weights).backward()
    shared = _gradients(model.mapper)
    model.zero_grad()
    expected = unshared_losses(model, language_model, images, patches_BPV).sum() / weights
    expected.backward()
    assert losses.weighted_sum.item() / weights == pytest.approx(expected.item(), abs=1e-5)
    assert losses.weighted_sum_O.sum().item() == pytest.approx(losses.weighted_sum.item(), rel=1e-5)
    assert losses.weight_O.sum().item() == pytest.approx(weights, rel=1e-5)
    for got, wanted in zip(shared, _gradients(model.mapper), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [gpt2, llama])
def test_logits_at_targets_are_those_of_the_full_forward(family: Any) -> None:
    model, language_model = prefix_model(family, MAPPERS[2], (1,))
    images, patches_BPV = ragged_images(3)
    single = [PackedImage(image.image_id, image.branches[:1]) for image in images]
    batch = pack(single, patches_BPV)
    start = 0
    for number, image in enumerate(single):
        (branch,) = image.branches
        embed = language_model.model.get_input_embeddings()
        prefix = model.prefix(torch.from_numpy(patches_BPV[number : number + 1]))
        tokens = torch.tensor([(*branch.prompt_ids, *branch.target_ids)])
        inputs = torch.cat([embed(torch.tensor([[1]])), prefix, embed(tokens)], dim=1)
        num_targets = len(branch.target_ids)
        full = language_model.model(inputs_embeds=inputs).logits[0, -num_targets - 1 : -1]
        torch.testing.assert_close(model.target_logits(batch)[start : start + num_targets], full, atol=1e-5, rtol=0)
        start += num_targets


@pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: f"{mapper.kind}-{mapper.prefix_tokens}")
def test_a_prefix_starts_at_the_scale_of_the_embeddings(mapper: MapperConfig) -> None:
    model, language_model = prefix_model(gpt2, mapper, ())
    patches = torch.randn(64, 5, 8, dtype=torch.float16)
    prefix = model.prefix(patches)
    assert prefix.shape == (64, mapper.prefix_tokens, WIDTH)
    assert 0.7 < prefix.std().item() / language_model.embedding_scale < 1.4


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]
