from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset import Example
from infra.errors import ConfigError, DataError
from training.config import TrainConfig
from training.data import Ranks, TrainingOrder, prefetched, shared_out, tokenise
from training.language_model import LanguageModel, load_language_model
from training.packing import PackedImage


@pytest.fixture(scope="module")
def language_model(language_model_dir: Path) -> LanguageModel:
    import torch

    return load_language_model(language_model_dir, torch.float32)


def config(**changes: Any) -> TrainConfig:
    settings = {
        "mapper": {"kind": "mlp", "prefix_tokens": 2, "width": 4},
        "global_batch_images": 5,
        "epochs": 2,
        "learning_rate": 1e-3,
    }
    return TrainConfig.model_validate({**settings, **changes})


@pytest.fixture(scope="module")
def images(language_model: LanguageModel, make_examples: Callable[[int], list[Example]]) -> tuple[PackedImage, ...]:
    return tokenise(make_examples(23), language_model, config())


def test_a_target_is_its_text_and_the_end(
    language_model: LanguageModel, make_examples: Callable[[int], list[Example]]
) -> None:
    (image,) = tokenise(make_examples(1)[:1], language_model, config())
    branch = image.branches[0]
    assert language_model.tokenizer.decode(branch.prompt_ids) == "caption :"
    assert branch.target_ids[-1] == language_model.eos_id
    assert language_model.tokenizer.decode(branch.target_ids[:-1]) == make_examples(1)[0].targets[0]


def test_every_image_comes_once_per_epoch_whatever_the_number_of_ranks(images: tuple[PackedImage, ...]) -> None:
    order = TrainingOrder(images, config(), "d" * 64)
    assert order.steps_per_epoch == 5 and order.num_steps == 10
    for ranks, micro in ((1, 5), (2, 2), (3, 1), (7, 4)):
        for epoch in range(2):
            seen: list[str] = []
            for step in range(epoch * 5, epoch * 5 + 5):
                batch = order.batch(step)
                shares = [
                    shared_out(batch, Ranks(rank, ranks, micro), Ranks(rank, ranks, micro).num_micro_batches(5))
                    for rank in range(ranks)
                ]
                assert len({len(share) for share in shares}) == 1
                weighted = [image for share in shares for part in share for image in part if image.weighted_targets > 0]
                assert sorted(i.image_id for i in weighted) == sorted(i.image_id for i in batch)
                seen += [image.image_id for image in weighted]
            assert sorted(seen) == [image.image_id for image in images]


def test_the_order_is_a_function_of_seed_epoch_and_dataset(images: tuple[PackedImage, ...]) -> None:
    def first(seed: int, digest: str, step: int) -> list[str]:
        return [image.image_id for image in TrainingOrder(images, config(seed=seed), digest).batch(step)]

    assert first(0, "d" * 64, 0) == first(0, "d" * 64, 0)
    assert len({tuple(first(*place)) for place in ((0, "d", 0), (1, "d", 0), (0, "e", 0), (0, "d", 5))}) == 4


def test_each_epoch_takes_another_choice_of_too_many_targets(images: tuple[PackedImage, ...]) -> None:
    rich = replace(images[0], branches=images[0].branches * 6)
    order = TrainingOrder([rich], config(max_targets_per_image=2, epochs=9), "d" * 64)
    chosen = [order.batch(step)[0].branches for step in range(9)]
    assert {len(branches) for branches in chosen} == {2} and len(set(chosen)) > 1
    assert chosen == [order.batch(step)[0].branches for step in range(9)]


def test_what_cannot_be_trained_is_named(
    language_model: LanguageModel, make_examples: Callable[[int], list[Example]]
) -> None:
    (example,) = make_examples(1)[:1]
    with pytest.raises(DataError, match="has no tokens; expected at least one"):
        tokenise([replace(example, targets=("",))], language_model, config())
    with pytest.raises(ConfigError, match="take 203 positions; expected at most the language model's 128"):
        tokenise([replace(example, targets=("a " * 300,))], language_model, config(max_target_tokens=200))
    with pytest.raises(DataError, match="no example of a task that is trained"):
        TrainingOrder((), config(), "d" * 64)


def test_a_failure_of_the_prefetch_thread_is_raised_where_it_is_waited_for() -> None:
    def make(step: int) -> Any:
        if step == 2:
            raise DataError("step 2")
        return step

    found = []
    with pytest.raises(DataError, match="step 2"):
        found.extend(prefetched(make, 0, 5))
    assert list(prefetched(lambda step: step, 3, 6)) == [3, 4, 5]  # type: ignore[arg-type, return-value]
