from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset import Example
from infra.errors import ConfigError, DataError
from training.config import TrainConfig
from training.data import Ranks, TrainingOrder, prefetched, shared_out
from training.language_model import LanguageModel, load_language_model
from training.objectives.answer_space import AnswerSpace, answer_space_of
from training.packing import Layout, PackedImage
from training.tokenising import check_objectives, tokenise

LAYOUT = Layout(0, 2)


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
    return tokenise(make_examples(23), language_model, config(), LAYOUT, AnswerSpace())


def test_a_target_is_its_text_and_the_end(
    language_model: LanguageModel, make_examples: Callable[[int], list[Example]]
) -> None:
    (image,) = tokenise(make_examples(1)[:1], language_model, config(), LAYOUT, AnswerSpace())
    branch = image.branches[0]
    assert language_model.tokenizer.decode(branch.prompt_ids) == "caption :"
    assert branch.target_ids[-1] == language_model.eos_id
    assert language_model.tokenizer.decode(branch.target_ids[:-1]) == make_examples(1)[0].targets[0]


def test_every_image_comes_once_per_epoch_whatever_the_number_of_ranks(images: tuple[PackedImage, ...]) -> None:
    order = TrainingOrder(images, config(), "d" * 64)
    assert order.steps_per_epoch == 5 and order.num_steps == 10
    for ranks, tokens in ((1, 60), (2, 25), (3, 1), (7, 100), (2, None)):
        for epoch in range(2):
            seen: list[str] = []
            for step in range(epoch * 5, epoch * 5 + 5):
                batch = order.batch(step)
                shares = [shared_out(batch, Ranks(rank, ranks, tokens), LAYOUT) for rank in range(ranks)]
                assert len({len(share) for share in shares}) == 1
                flat = [image for share in shares for part in share for image in part]
                weighted = [image for image in flat if sum(image.weights(2)) > 0]
                assert sorted(i.image_id for i in weighted) == sorted(i.image_id for i in batch)
                seen += [image.image_id for image in weighted]
            assert sorted(seen) == [image.image_id for image in images]


@pytest.mark.parametrize("shares", [True, False])
def test_a_micro_batch_takes_no_more_positions_than_its_budget_unless_one_image_does(
    images: tuple[PackedImage, ...], shares: bool
) -> None:
    layout = LAYOUT._replace(shares=shares)
    for budget in (1, 20, 45, 200):
        parts = shared_out(images, Ranks(0, 1, budget), layout)
        positions = [len(layout.rows(part)) * max(layout.length(image) for image in part) for part in parts]
        assert all(taken <= budget or len(part) == 1 for taken, part in zip(positions, parts, strict=True))
    assert len(shared_out(images, Ranks(0, 1, 200), layout)) < len(shared_out(images, Ranks(0, 1, 45), layout))


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
        tokenise([replace(example, targets=("",))], language_model, config(), LAYOUT, AnswerSpace())
    long = config(max_target_tokens=200)
    with pytest.raises(ConfigError, match="take 203 positions; expected at most the language model's 128"):
        tokenise([replace(example, targets=("a " * 300,))], language_model, long, LAYOUT, AnswerSpace())
    with pytest.raises(DataError, match="no example of a task that is trained"):
        check_objectives((), config())


def test_an_objective_that_the_recipe_names_needs_examples(
    language_model: LanguageModel, make_examples: Callable[[int], list[Example]]
) -> None:
    captions = [example for example in make_examples(4) if example.task == "caption"]
    images = tokenise(captions, language_model, config(), LAYOUT, AnswerSpace())
    for defaults in (config(), TrainConfig.model_validate_json(config().model_dump_json())):
        check_objectives(images, defaults)
    named = config(objectives={"caption": {}, "vqa": {"weight": 2.0}})
    with pytest.raises(ConfigError, match=r"names vqa, and the train split has no vqa example"):
        check_objectives(tokenise(captions, language_model, named, LAYOUT, AnswerSpace()), named)


def test_each_objective_asks_its_own_of_an_example(
    language_model: LanguageModel, make_examples: Callable[[int], list[Example]]
) -> None:
    (caption, *_) = make_examples(1)
    others = [
        replace(caption, example_id="b" * 64, task="classify", targets=("red",), label="red"),
        replace(caption, example_id="c" * 64, task="classify", targets=("blue",), label="blue"),
        replace(caption, example_id="d" * 64, task="regress", targets=(), numbers=(1.0, 4.0)),
        replace(caption, example_id="e" * 64, task="regress", targets=(), numbers=(3.0, 4.0)),
    ]
    objectives = {"caption": {}, "classify": {"by": "head"}, "contrast": {}, "regress": {}}
    settings = config(objectives=objectives)
    space = answer_space_of([caption, *others], settings.objectives)
    assert space.labels == ("blue", "red") and space.number_means == (2.0, 4.0)
    assert space.number_deviations == (1.0, 1.0), "equal numbers are not divided by zero"
    (image,) = tokenise([caption, *others], language_model, settings, LAYOUT, space)
    by_objective = {number: [b for b in image.branches if b.objective == number] for number in range(4)}
    assert {len(b.target_ids) > 0 for b in by_objective[0]} == {True}
    assert [b.values for b in by_objective[1]] == [(1.0,), (0.0,)]
    assert [b.values for b in by_objective[3]] == [(-1.0, 0.0), (1.0, 0.0)]
    assert all(not b.sees_image and b.prompt_ids[-1] == language_model.eos_id for b in by_objective[2])
    assert image.weights(4)[1:] == [2.0, len(caption.targets), 2.0]
    with pytest.raises(DataError, match=r"has 1 labels \(red\); expected at least 2"):
        answer_space_of(others[:1], settings.objectives)
    with pytest.raises(DataError, match=r"have \[1, 2\] numbers each; expected the same count"):
        answer_space_of([*others, replace(others[2], numbers=(1.0,))], settings.objectives)


def test_a_failure_of_the_prefetch_thread_is_raised_where_it_is_waited_for() -> None:
    def make(step: int) -> Any:
        if step == 2:
            raise DataError("step 2")
        return step

    found = []
    with pytest.raises(DataError, match="step 2"):
        found.extend(prefetched(make, 0, 5))
    assert list(prefetched(lambda step: step, 3, 6)) == [3, 4, 5]  # type: ignore[arg-type, return-value]
