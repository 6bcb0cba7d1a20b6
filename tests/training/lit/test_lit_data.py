"""Texts of images, and how a global batch is shared out over ranks."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from data_prep.dataset import Example
from data_prep.features import FeatureStore
from infra.errors import DataError
from training.config import TrainConfig
from training.data import Ranks
from training.lit.data import LitBatcher, lit_images
from training.lit.text_tower import TextTower
from training.packing import PackedImage


class NumberedFeatures:
    """Every feature of an image is the image's number."""

    def gather(self, image_ids: Sequence[str]) -> np.ndarray:
        return np.array([int(image_id) for image_id in image_ids], dtype=np.float16)[:, None, None]


def example(image: int, task: str, *targets: str, weight: float = 1.0) -> Example:
    return Example(f"{image}-{task}", str(image), task, "", targets, "train", "tiny", weight)


EXAMPLES = [
    example(0, "caption", "a red seven", "seven"),
    example(1, "classify", "blue", weight=2.0),
    example(1, "vqa", "green"),
    example(2, "caption", "a red seven"),
    example(2, "classify", "one"),
]


def texts_of(images: Sequence[PackedImage], tower: TextTower) -> dict[str, list[str]]:
    return {i.image_id: [tower.tokenizer.decode(branch.prompt_ids) for branch in i.branches] for i in images}


def batcher(tower: TextTower, config: TrainConfig, rank: int = 0, num_ranks: int = 1) -> LitBatcher:
    return LitBatcher(cast(FeatureStore, NumberedFeatures()), tower.pad_id, config, Ranks(rank, num_ranks, None))


def shares(
    images: Sequence[PackedImage], tower: TextTower, config: TrainConfig, num_ranks: int
) -> list[dict[str, Any]]:
    """Of each rank: its only micro batch, and its texts."""
    found = []
    for rank in range(num_ranks):
        (micro_batch,) = batcher(tower, config, rank, num_ranks).global_batch(images).micro_batches
        tensors: Any = micro_batch.tensors
        image_ids = [str(int(value)) for value in tensors.patches_IPV[:, 0, 0]]
        texts = list(tensors.text_id_X.tolist())
        owners = [image_ids[number] for number in tensors.image_of_text_X]
        found.append({"tensors": tensors, "pairs": list(zip(owners, texts, tensors.weight_X.tolist(), strict=True))})
    return found


def test_captions_are_texts_as_they_are_and_labels_go_into_every_template(
    bert: TextTower, make_lit_config: Callable[..., TrainConfig]
) -> None:
    config = make_lit_config(regime={"templates": ["a {label}", "{label} colour"]})
    assert texts_of(lit_images(EXAMPLES, bert, config), bert) == {
        "0": ["a red seven", "seven"],
        "1": ["a blue", "blue colour"],
        "2": ["a red seven", "a one", "one colour"],
    }


def test_texts_weigh_what_their_example_weighs(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    images = lit_images(EXAMPLES, bert, make_lit_config())
    assert [[branch.weight for branch in image.branches] for image in images] == [[1.0, 1.0], [2.0], [1.0, 1.0]]
    made = batcher(bert, make_lit_config({"weight": 3.0})).global_batch(images)
    assert made.weight_O == (6.0,)
    assert float(cast(Any, made.micro_batches[0].tensors).scale) == pytest.approx(3.0 / 6.0)
    assert (made.num_images, made.num_targets) == (3, 5)


def test_equal_texts_have_one_number_on_all_ranks(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    images = lit_images(EXAMPLES, bert, make_lit_config())
    pairs = [pair for share in shares(images, bert, make_lit_config(), 2) for pair in share["pairs"]]
    numbers = {image: {text for owner, text, _ in pairs if owner == image} for image in "012"}
    assert len(numbers["0"] & numbers["2"]) == 1, "both have the text 'a red seven'"
    assert not numbers["0"] & numbers["1"]


def test_ranks_share_the_images_and_each_holds_its_share_at_once(
    bert: TextTower, make_lit_config: Callable[..., TrainConfig]
) -> None:
    images = lit_images(EXAMPLES, bert, make_lit_config())
    (whole,) = shares(images, bert, make_lit_config(), 1)
    two = shares(images, bert, make_lit_config(), 2)
    assert sorted(pair for share in two for pair in share["pairs"]) == sorted(whole["pairs"])


def test_a_rank_without_an_image_takes_one_that_weighs_nothing(
    bert: TextTower, make_lit_config: Callable[..., TrainConfig]
) -> None:
    images = lit_images(EXAMPLES[:1], bert, make_lit_config())
    first, second = shares(images, bert, make_lit_config(), 2)
    assert sorted(weight for _, _, weight in first["pairs"]) == [1.0, 1.0]
    assert [weight for _, _, weight in second["pairs"]] == [0.0]
    assert first["tensors"].scale == second["tensors"].scale


def test_a_text_without_tokens_is_named(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(DataError, match=r"example 3-caption… \(tiny\): the text ' ' has no tokens"):
        lit_images([*EXAMPLES, example(3, "caption", " ")], bert, make_lit_config())


def test_the_order_of_examples_does_not_matter(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    config = make_lit_config()
    assert lit_images(EXAMPLES[::-1], bert, config) == lit_images(EXAMPLES, bert, config)


def test_a_long_text_is_cut(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    (image,) = lit_images(EXAMPLES[:1], bert, make_lit_config(max_target_tokens=2))
    assert [len(branch.prompt_ids) for branch in image.branches] == [2, 1]
