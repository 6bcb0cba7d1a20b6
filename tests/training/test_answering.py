"""Answers: each question with its own image, and with one that is certainly another."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.dataset import Example
from data_prep.features import FeatureStore
from infra.errors import DataError
from infra.part_cache import PartCache
from infra.store import Store
from training.answering import Answer, Answerer, questions_of, swapped
from training.config import TrainConfig
from training.generation import generate
from training.trained import load_trained

IMAGE_IDS = [f"{number:064x}" for number in range(50)]
MAX_NEW_TOKENS = 6


def config_with(**more: Any) -> TrainConfig:
    mapper = {"kind": "mlp", "prefix_tokens": 2, "width": 8}
    needed = {"mapper": mapper, "global_batch_images": 4, "epochs": 1, "learning_rate": 0.1}
    return TrainConfig.model_validate({**needed, **more})


def example(number: int, task: str, prompt: str) -> Example:
    return Example(f"{number}", IMAGE_IDS[number], task, prompt, ("x",), "test", "tiny")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("num_images", [2, 3, 50])
def test_every_image_gets_another_one_and_every_image_is_used_once(num_images: int, seed: int) -> None:
    control = swapped(IMAGE_IDS[:num_images], seed)
    assert set(control) == set(control.values()) == set(IMAGE_IDS[:num_images])
    assert all(own != other for own, other in control.items())


def test_the_swap_depends_on_the_seed_and_on_which_images_there_are_only() -> None:
    several_examples_per_image = IMAGE_IDS * 3
    random.Random(7).shuffle(several_examples_per_image)
    assert swapped(several_examples_per_image, 4) == swapped(IMAGE_IDS, 4)
    assert swapped(IMAGE_IDS, 4) != swapped(IMAGE_IDS, 5)


@pytest.mark.parametrize("image_ids", [[], IMAGE_IDS[:1], IMAGE_IDS[:1] * 5])
def test_fewer_than_two_images_cannot_be_swapped(image_ids: list[str]) -> None:
    with pytest.raises(DataError, match=f"the test split has {len(set(image_ids))} images; expected at least 2"):
        swapped(image_ids, 0)


def test_questions_are_asked_in_the_words_of_the_training_and_untrained_tasks_are_not_asked() -> None:
    objectives = {"caption": {"prompt": "describe:"}, "vqa": {"prompt": "Q: {prompt} A:"}, "regress": {}}
    config = config_with(objectives=objectives)
    asked = [
        example(0, "vqa", "which {digit} is it"),
        example(1, "caption", ""),
        example(2, "regress", "digits"),
        example(3, "retrieval", "find"),
    ]
    control = swapped(IMAGE_IDS[:4], 0)
    questions = {question.example_id: question for question in questions_of(asked, config, control)}
    assert {name: question.prompt for name, question in questions.items()} == {
        "0": "Q: which {digit} is it A:",
        "1": "describe:",
    }
    for number in (0, 1):
        assert questions[str(number)].image_id == IMAGE_IDS[number]
        assert questions[str(number)].control_image_id == control[IMAGE_IDS[number]]


def test_questions_of_equal_length_lie_together_whatever_the_order_of_the_examples() -> None:
    asked = [example(number, "vqa", "x" * (number % 5)) for number in range(20)]
    control = swapped(IMAGE_IDS[:20], 0)
    questions = questions_of(asked, config_with(), control)
    assert questions == questions_of(asked[::-1], config_with(), control)
    lengths = [len(question.prompt) for question in questions]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_answer_is_that_of_its_image_and_the_control_that_of_the_other(
    batch_size: int, trained_world: Any, store: Store, tmp_path: Path
) -> None:
    """Against one question at a time, through the model alone."""
    world, cache = trained_world, PartCache(store, tmp_path / "cache")
    control = swapped([each.image_id for each in world.test_examples], 0)
    questions = questions_of(world.test_examples, world.config, control)
    features = FeatureStore(world.features, cache)
    model, language_model = load_trained(world.train, features, world.language_model_folder, cache, "cpu")

    def alone(image_id: str, prompt: str) -> str:
        patches_1PV = torch.from_numpy(features.gather([image_id]).astype(np.float32))
        return generate(model, language_model, patches_1PV, [prompt], MAX_NEW_TOKENS)[0]

    answerer = Answerer(
        store.uri,
        str(tmp_path / "another cache"),
        world.train.model_dump(mode="json"),
        world.features.model_dump(mode="json"),
        str(world.language_model_folder),
        {"threads": 1, "batch_size": batch_size, "max_new_tokens": MAX_NEW_TOKENS},
    )
    expected = {
        question.example_id: Answer(
            alone(question.image_id, question.prompt), alone(question.control_image_id, question.prompt)
        )
        for question in questions
    }
    assert answerer.run(questions) == expected
    for task in ("caption:", "question: which digit answer:"):
        of_task = [expected[question.example_id] for question in questions if question.prompt == task]
        assert len({answer.prediction for answer in of_task}) >= 5, "this model should listen to its images"
        assert sum(answer.prediction != answer.control_prediction for answer in of_task) >= 7
