"""Shapes: B images, P patches, V vision width, D LM width, N target tokens, C vocabulary."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_model_families import FAMILIES, families
from torch import Tensor, nn
from torch.nn import functional

from training.config import TrainConfig
from training.language_model import LanguageModel
from training.objectives.answer_space import AnswerSpace
from training.packing import BatchObjectives, Branch, Layout, PackedImage, apart, pack, rows_of
from training.prefix_model import PrefixModel, build_prefix_model, layout_of

VOCABULARY, WIDTH = 101, 32
MAPPERS: list[dict[str, Any]] = [
    {"kind": "mlp", "prefix_tokens": 4, "width": 16, "pooling": "flatten"},
    {"kind": "mlp", "prefix_tokens": 1, "width": 16},
    {"kind": "transformer", "prefix_tokens": 4, "width": 16, "num_layers": 2, "num_heads": 2},
]
HEADLESS = BatchObjectives((1.0, 1.0), ())


def prefix_model(
    family: str, mapper: dict[str, Any], lead_ids: tuple[int, ...] = (), **config: Any
) -> tuple[PrefixModel, LanguageModel]:
    torch.manual_seed(0)
    language = LanguageModel(families(VOCABULARY, WIDTH)[family]().eval(), None, Path("memory"), lead_ids, 2, 128)
    settings = {"mapper": mapper, "global_batch_images": 4, "epochs": 1, "learning_rate": 1e-3, **config}
    space = AnswerSpace(labels=("a", "b", "c"), number_means=(0.0, 0.0), number_deviations=(1.0, 1.0))
    return build_prefix_model(TrainConfig.model_validate(settings), language, (5, 8), space), language


def ragged_images(num_images: int, most: int = 12) -> tuple[list[PackedImage], "np.ndarray"]:
    """1 to `most` targets of 1 to 5 tokens per image, behind one of three prompts of 0 to 3 tokens."""
    draw = random.Random(0)

    def tokens(fewest: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(fewest, most)))

    prompts = [(), tokens(1, 1), tokens(3, 3)]

    def branch() -> Branch:
        return Branch("e", draw.randrange(2), draw.choice(prompts), tokens(1, 5), draw.uniform(0.1, 2))

    counts = [1, most, *(draw.randint(1, most) for _ in range(num_images - 2))]
    images = [PackedImage(str(number), tuple(branch() for _ in range(count))) for number, count in enumerate(counts)]
    patches = np.random.default_rng(0).normal(size=(num_images, 5, 8)).astype(np.float16)
    return images, patches


def unshared_losses(
    model: PrefixModel, language: LanguageModel, images: list[PackedImage], patches_BPV: "np.ndarray"
) -> Tensor:
    """Weighted loss by one sequence per target, with logits everywhere."""
    embed = language.model.get_input_embeddings()
    parts = []
    for number, image in enumerate(images):
        shared = model.shared_inputs(torch.from_numpy(patches_BPV[number : number + 1]))
        for branch in image.branches:
            tokens = torch.tensor([branch.prompt_ids + branch.target_ids])
            logits = language.model(inputs_embeds=torch.cat([shared, embed(tokens)], dim=1)).logits[0]
            num_targets = len(branch.target_ids)
            losses = functional.cross_entropy(logits[-num_targets - 1 : -1], tokens[0, -num_targets:], reduction="none")
            parts.append(branch.weight * losses)
    return torch.cat(parts)


@pytest.mark.parametrize("lead_ids", [(), (1,)])
@pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: f"{mapper['kind']}-{mapper['prefix_tokens']}")
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefix_has_the_loss_and_gradients_of_one_sequence_per_target(
    family: str, mapper: dict[str, Any], lead_ids: tuple[int, ...]
) -> None:
    model, language = prefix_model(family, mapper, lead_ids)
    assert language.shares_prefix
    images, patches_BPV = ragged_images(5)
    batch = pack(images, patches_BPV, layout_of(model.config, language), HEADLESS)
    losses = model.eval()(batch)
    weights = float(losses.weight_O.sum())
    (losses.total / weights).backward()
    shared = _gradients(model.mapper)
    model.zero_grad()
    expected = unshared_losses(model, language, images, patches_BPV).sum() / weights
    expected.backward()
    assert losses.total.item() / weights == pytest.approx(expected.item(), abs=1e-5)
    assert losses.sum_O.sum().item() == pytest.approx(losses.total.item(), rel=1e-5)
    assert weights == pytest.approx(sum(sum(image.weights(2)) for image in images), rel=1e-5)
    for got, wanted in zip(shared, _gradients(model.mapper), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_that_share_a_row_have_the_losses_of_rows_of_their_own(family: str) -> None:
    model, language = prefix_model(family, MAPPERS[2], (1,))
    layout = layout_of(model.config, language)
    images, patches_BPV = ragged_images(6, most=4)
    packed = pack(images, patches_BPV, layout, HEADLESS)
    assert len(packed.tokens_RL) < len(images), "some images stand in one row"
    together = model.eval()(packed)
    together.total.backward()
    found = _gradients(model.mapper)
    model.zero_grad()
    apart_each = [model(pack([image], patches_BPV[n : n + 1], layout, HEADLESS)) for n, image in enumerate(images)]
    expected = torch.stack([losses.total for losses in apart_each]).sum()
    expected.backward()
    weights = float(together.weight_O.sum())
    assert together.total.item() / weights == pytest.approx(expected.item() / weights, abs=1e-5)
    for got, wanted in zip(found, _gradients(model.mapper), strict=True):
        torch.testing.assert_close(got / weights, wanted / weights, atol=1e-5, rtol=0)


def test_equal_prompts_of_an_image_stand_there_once() -> None:
    branches = tuple(Branch("e", 0, prompt, (7, 8, 9), 1.0) for prompt in ((1, 2), (3,), (1, 2), (1, 2)))
    batch = pack([PackedImage("i", branches)], np.zeros((1, 5, 8), dtype=np.float16), Layout(0, 4), HEADLESS)
    assert batch.tokens_RL[0, 4:].tolist() == [1, 2, 7, 8, 7, 8, 7, 8, 3, 7, 8]
    assert batch.positions_RL[0, 4:].tolist() == [4, 5, 6, 7, 6, 7, 6, 7, 4, 5, 6]
    assert batch.target_place_N.tolist() == [5, 6, 7, 5, 8, 9, 5, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_targets_are_those_of_the_full_forward(family: str) -> None:
    model, language = prefix_model(family, MAPPERS[2], (1,))
    images, patches_BPV = ragged_images(3)
    single = [replace(image, branches=image.branches[:1]) for image in images]
    batch = pack(single, patches_BPV, Layout(1, 4), HEADLESS)
    found = model.target_logits(model.read(batch, batch.patches_BPV).targets_ND)
    expected = {}
    for number, image in enumerate(single):
        (branch,) = image.branches
        shared = model.shared_inputs(torch.from_numpy(patches_BPV[number : number + 1]))
        tokens = torch.tensor([(*branch.prompt_ids, *branch.target_ids)])
        inputs = torch.cat([shared, language.model.get_input_embeddings()(tokens)], dim=1)
        num_targets = len(branch.target_ids)
        expected[number] = language.model(inputs_embeds=inputs).logits[0, -num_targets - 1 : -1]
    order = [member for row in rows_of([Layout(1, 4).length(image) for image in single]) for member in row]
    torch.testing.assert_close(found, torch.cat([expected[number] for number in order]), atol=1e-5, rtol=0)


def test_a_language_model_that_cannot_share_gets_a_prefix_for_each_target_and_the_same_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = prefix_model("gpt2", MAPPERS[2])
    images, patches_BPV = ragged_images(4)
    expected = model.eval()(pack(images, patches_BPV, Layout(0, 4), HEADLESS)).total
    model.shares_prefix = False
    single = [(one, number) for number, image in enumerate(images) for one in apart(image)]
    patches = patches_BPV[[number for _, number in single]]
    batch = pack([one for one, _ in single], patches, Layout(0, 4, shares=False), HEADLESS)
    assert len(batch.tokens_RL) == len(single)
    assert model(batch).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_rows_are_filled_and_none_is_longer_than_the_longest_item() -> None:
    draw = random.Random(1)
    for _ in range(50):
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 30))]
        rows = rows_of(lengths)
        assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
        assert all(sum(lengths[item] for item in row) <= max(lengths) for row in rows)
        assert len(rows) <= 1.7 * sum(lengths) / max(lengths) + 1, "first fit decreasing wastes little"


@pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: f"{mapper['kind']}-{mapper['prefix_tokens']}")
def test_a_prefix_starts_at_the_scale_of_the_embeddings(mapper: dict[str, Any]) -> None:
    model, language = prefix_model("gpt2", mapper)
    prefix = model.shared_inputs(torch.randn(64, 5, 8, dtype=torch.float16))
    assert prefix.shape == (64, mapper["prefix_tokens"], WIDTH)
    assert 0.7 < prefix.std().item() / language.embedding_scale < 1.4


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]
