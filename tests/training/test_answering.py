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
from training.answering import Answerer
from training.asking import Asked, blind_id, blind_images, questions_of, swapped, units_of
from training.blind import blinded
from training.config import TrainConfig
from training.generation import GenerationConfig, generate
from training.trained import load_trained

IMAGE_IDS = [f"{number:064x}" for number in range(50)]
GENERATION = GenerationConfig(max_new_tokens=6)


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
    assert {name: question.own.prompt for name, question in questions.items()} == {
        "0": "Q: which {digit} is it A:",
        "1": "describe:",
        "2": "",
    }
    assert [questions[name].own.kind for name in "012"] == ["text", "text", "regress"]
    for number in (0, 1, 2):
        asked = questions[str(number)]
        assert asked.own.image_id == IMAGE_IDS[number]
        assert asked.control == asked.own._replace(image_id=control[IMAGE_IDS[number]])
        assert asked.blind == asked.own._replace(image_id=blind_id(IMAGE_IDS[:4]))


def test_a_wrong_caption_is_another_images_and_never_one_of_the_examples_own() -> None:
    captions = [
        Example(str(number), IMAGE_IDS[number], "caption", "", targets, "test", "tiny")
        for number, targets in enumerate([("a", "b"), ("b",), ("c",)])
    ]
    control = {IMAGE_IDS[0]: IMAGE_IDS[1], IMAGE_IDS[1]: IMAGE_IDS[2], IMAGE_IDS[2]: IMAGE_IDS[0]}
    found = questions_of(captions, config_with(), control)
    assert [one.target.target for one in found if one.target] == ["a", "b", "c"]
    assert [one.wrong.target if one.wrong else None for one in found] == [None, "c", "a"]


def test_a_model_that_finds_images_is_asked_for_vectors_of_them_and_of_all_their_captions() -> None:
    config = config_with(objectives={"caption": {}, "contrast": {"width": 4}})
    asked = Example("0", IMAGE_IDS[0], "caption", "", ("a", "b"), "test", "tiny")
    (found,) = questions_of([asked], config, {IMAGE_IDS[0]: IMAGE_IDS[1]})
    vectors = [one for one in found.asked() if one.kind in ("image_vector", "text_vector")]
    assert [one.target or one.prompt or one.image_id for one in vectors] == [
        IMAGE_IDS[0], IMAGE_IDS[1], blind_id([IMAGE_IDS[0]]), "a", "b",
    ]  # fmt: skip


def test_one_image_more_changes_the_image_of_one_other() -> None:
    before, after = swapped(IMAGE_IDS[:40], 0), swapped(IMAGE_IDS[:41], 0)
    assert sum(before[image_id] != after[image_id] for image_id in before) == 1


def test_each_image_and_prompt_is_asked_once_and_equal_lengths_lie_together() -> None:
    asked = [Asked(IMAGE_IDS[number % 10], "x" * (number % 5)) for number in range(40)]
    units = units_of(asked, 3)
    assert [len(unit) for unit in units.values()] == [3, 3, 3, 1]
    flat = [one for unit in units.values() for one in unit]
    assert sorted(flat) == sorted(set(asked))
    assert [len(one.prompt) for one in flat] == sorted(len(one.prompt) for one in flat)
    assert units_of(asked[::-1], 3) == units


def test_a_unit_s_name_tells_what_is_asked() -> None:
    """An attempt that finds other units, because more is known by now, takes no notes for its own that are not."""
    asked = [Asked(image_id, "x") for image_id in IMAGE_IDS[:4]]
    whole, rest, other = (units_of(asked[start:], 2) for start in (0, 2, 1))
    assert [*whole][1:] == [*rest]
    assert not whole.keys() & other.keys()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_text_is_that_of_its_image(batch_size: int, trained_world: Any, store: Store, tmp_path: Path) -> None:
    """Against one image at a time, through the model alone."""
    world, cache = trained_world, PartCache(store, tmp_path / "cache")
    control = swapped([each.image_id for each in world.test_examples], 0)
    questions = questions_of(world.test_examples, world.config, control)
    image_ids = {question.own.image_id for question in questions}
    asked = [one for question in questions for one in question.asked() if one.kind == "text"]
    (unit,) = units_of(asked, 100).values()
    features = FeatureStore(world.features, cache)
    model, language_model = load_trained(world.train, features, world.language_model_folder, cache, "cpu")

    blind = blinded(model, [torch.from_numpy(features.gather(sorted(image_ids)))])

    def alone(asked: Asked) -> str:
        looks = asked.image_id != blind_id(image_ids)
        shown = asked.image_id if looks else questions[0].own.image_id  # whatever: it is not looked at
        patches_1PV = torch.from_numpy(features.gather([shown]).astype(np.float32))
        return generate(model if looks else blind, language_model, patches_1PV, [asked], GENERATION)[0]

    answerer = Answerer(
        store.uri,
        str(tmp_path / "another cache"),
        {name: getattr(world, name).model_dump(mode="json") for name in ("train", "features", "dataset")},
        str(world.language_model_folder),
        world.vision_tower.model_dump(mode="json"),
        {
            "threads": 1,
            "batch_size": batch_size,
            "blind_images": blind_images(image_ids),
            "shots": {},
            "generation": GENERATION.model_dump(mode="json"),
        },
    )
    expected = {asked: alone(asked) for asked in unit}
    assert {one: reply.text for one, reply in zip(unit, answerer.run(unit), strict=True)} == expected
    for prompt in ("caption:", "question: which digit answer:"):
        of_prompt = [question for question in questions if question.own.prompt == prompt]
        assert len({expected[question.own] for question in of_prompt}) >= 5, "it should listen to its images"
        assert sum(expected[one.own] != expected[one.control] for one in of_prompt) >= 7
        assert sum(expected[one.own] != expected[one.blind] for one in of_prompt) >= 7
