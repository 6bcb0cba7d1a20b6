"""Heads, contrast and regularisers of the model, without an engine. Shapes: B images, P patches, V vision width."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_model_families import families
from torch import nn

from training.config import TrainConfig
from training.language_model import LanguageModel
from training.objectives.answer_space import AnswerSpace
from training.packed_batch import PackedBatch
from training.packing import BatchObjectives, Branch, PackedImage, pack
from training.perturbing import adversarial_patches, disturbed, noisy
from training.prefix_model import PrefixModel, build_prefix_model, layout_of
from training.regularisers import AdversarialConfig, RegularisersConfig

OBJECTIVES = {"caption": {}, "classify": {"by": "head"}, "contrast": {"width": 8}, "regress": {}}
"""Numbers 0 to 3."""


def model_of(**config: Any) -> tuple[PrefixModel, LanguageModel]:
    torch.manual_seed(0)
    language = LanguageModel(families()["llama"]().eval(), None, Path("memory"), (1,), 2, 128)
    settings = {
        "mapper": {"kind": "mlp", "prefix_tokens": 3, "width": 16},
        "global_batch_images": 4,
        "epochs": 1,
        "learning_rate": 1e-3,
        "objectives": OBJECTIVES,
        **config,
    }
    space = AnswerSpace(labels=("a", "b", "c"), number_means=(0.0, 0.0), number_deviations=(1.0, 1.0))
    model = build_prefix_model(TrainConfig.model_validate(settings), language, (5, 8), space)
    for head in model.heads.values():  # heads start at zero, where nothing could be told apart
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model, language


def images_of_all_kinds(num_images: int) -> list[PackedImage]:
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 101) for _ in range(count))

    def branches(number: int) -> tuple[Branch, ...]:
        return (
            Branch("c", 0, tokens(2), tokens(draw.randint(1, 5)), 1.0),
            Branch("l", 1, tokens(2), (), 2.0, (float(number % 3),)),
            Branch("t", 2, tokens(draw.randint(2, 4)), (), 1.0, (float(number),), sees_image=False),
            Branch("n", 3, tokens(1), (), 0.5, (draw.gauss(0, 1), draw.gauss(0, 1))),
        )

    return [PackedImage(str(number), branches(number)) for number in range(num_images)]


def batch_of(model: PrefixModel, language: LanguageModel, images: list[PackedImage]) -> PackedBatch:
    patches_BPV = np.random.default_rng(0).normal(size=(len(images), 5, 8)).astype(np.float16)
    told = BatchObjectives((1.0, 1.0, 1.0, 1.0), (1, 2, 3))
    return pack(images, patches_BPV, layout_of(model.config, language), told)


def alone(model: PrefixModel, patches_1PV: torch.Tensor, ids: tuple[int, ...]) -> torch.Tensor:
    """The hidden state at the end of one text behind one prefix."""
    embedded = model.lm.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))
    inputs = torch.cat([model.shared_inputs(patches_1PV), embedded], dim=1)
    return model.lm.base_model(inputs_embeds=inputs).last_hidden_state[0, -1]


def test_heads_read_what_a_sequence_of_its_own_would_give_and_blind_texts_do_not_see_the_image() -> None:
    model, language = model_of()
    images = images_of_all_kinds(3)
    batch = batch_of(model, language, images)
    reads = model.eval().read(batch, batch.patches_BPV)
    for number in (1, 2, 3):
        for row, member in enumerate(batch.reads[number].image_M.tolist()):
            branch = images[member].branches[number]
            patches_1PV = batch.patches_BPV[member : member + 1]
            expected = alone(model, patches_1PV, branch.prompt_ids)
            if number == 2:
                only_text = torch.tensor([(1, *branch.prompt_ids)])
                expected = model.lm.base_model(input_ids=only_text).last_hidden_state[0, -1]
            torch.testing.assert_close(reads.heads[number][row], expected, atol=1e-5, rtol=1e-4)
    for member in range(3):
        expected = alone(model, batch.patches_BPV[member : member + 1], ())
        torch.testing.assert_close(reads.images_BD[member], expected, atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_weighted_sum_of_the_objectives_means() -> None:
    model, language = model_of()
    batch = batch_of(model, language, images_of_all_kinds(4))
    losses = model.eval()(batch)
    assert (losses.sum_O > 0).all()
    assert losses.weight_O.tolist()[1:] == [8.0, 4.0, 2.0]
    assert losses.total.item() == pytest.approx(losses.sum_O.sum().item(), rel=1e-5)
    hidden = model.read(batch, batch.patches_BPV).heads
    read = batch.reads[3]
    squared = (model.heads["regress"].output(hidden[3]) - read.values_MU).square().mean(dim=1)
    assert losses.sum_O[3].item() == pytest.approx((squared * read.weight_M).sum().item(), rel=1e-4)


def test_every_trained_parameter_has_a_gradient_in_a_micro_batch_that_lacks_an_objective() -> None:
    """Ranks reduce the same buckets: a parameter without a gradient on one of them would hang or shift the others."""
    model, language = model_of()
    captions = [PackedImage(image.image_id, image.branches[:1]) for image in images_of_all_kinds(2)]
    model.train()(batch_of(model, language, captions)).total.backward()
    assert [name for name, parameter in model.trained().items() if parameter.grad is None] == []


def test_regularisers_add_to_the_loss_in_training_and_never_to_a_validation() -> None:
    plain, language = model_of()
    batch = batch_of(plain, language, images_of_all_kinds(3))
    expected = plain.train()(batch).total.item()
    terms = {
        "consistency": {"weight": 5.0, "noise": 0.5},
        "adversarial": {"weight": 1.0, "radius": 0.5, "num_steps": 2},
        "label_smoothing": 0.2,
        "feature_noise": 0.3,
        "feature_dropout": 0.5,
    }
    for name, value in terms.items():
        model, _ = model_of(regularisers={name: value})
        torch.manual_seed(1)
        losses = model.train()(batch)
        assert abs(losses.total.item() - expected) > 1e-3, name
        losses.total.backward()
        assert model.mapper.hidden.weight.grad.isfinite().all()
        assert model.eval()(batch).total.item() == pytest.approx(expected, rel=1e-6), name


def test_adversarial_features_stay_in_their_ball_and_raise_the_loss_more_than_noise_of_that_size() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 1))
    patches_BPV = torch.randn(64, 5, 8)

    def loss(values_BPV: torch.Tensor) -> torch.Tensor:
        return layer(values_BPV).square().sum()

    config = AdversarialConfig(weight=1.0, radius=0.2, num_steps=3)
    worst_BPV = adversarial_patches(loss, patches_BPV, config)
    distance_B = (worst_BPV - patches_BPV).flatten(1).norm(dim=1) / patches_BPV.flatten(1).norm(dim=1)
    assert distance_B.max().item() <= 0.2 + 1e-5
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert loss(worst_BPV) > loss(noisy(patches_BPV, 0.2)) and loss(worst_BPV) > loss(patches_BPV)


def test_dropped_patches_are_whole_and_as_many_as_asked() -> None:
    torch.manual_seed(0)
    patches_BPV = torch.randn(200, 10, 4)
    found_BPV = disturbed(patches_BPV, RegularisersConfig(feature_dropout=0.3))
    gone_BP = (found_BPV == 0).all(dim=2)
    assert gone_BP.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(found_BPV[~gone_BP], patches_BPV[~gone_BP])
