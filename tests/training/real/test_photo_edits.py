"""`regress` reads three numbers off a picture, against a ridge probe on the same stored features."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from photo_edits import NAMES, NUM_EDITS
from real_training import World, trained

from data_prep.dataset import Example
from training.head_outputs import HeadReader
from training.objectives.answer_space import AnswerSpace

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.usefixtures("one_rank")]
CONFIG = {
    # Without a prompt the head reads the prefix itself, where the mapper has a straight way to it.
    "mapper": {"kind": "mlp", "prefix_tokens": 1, "width": 512, "dropout": 0.2},
    "objectives": {"regress": {"prompt": ""}},
    "global_batch_images": 64,
    "epochs": 8,
    "learning_rate": 5e-3,
    "weight_decay": 0.1,
    "validation_images": 0,
    "checkpoint_every_steps": 10_000,
}


def numbers_of(examples: Sequence[Example]) -> Any:
    return np.array([example.numbers for example in examples])


def features_of(world: World, examples: Sequence[Example]) -> Any:
    return world.stored.gather([example.image_id for example in examples])


def pearson(found_BR: Any, expected_BR: Any) -> list[float]:
    return [round(float(np.corrcoef(*pair)[0, 1]), 3) for pair in zip(found_BR.T, expected_BR.T, strict=True)]


def ridge(train_BF: Any, numbers_BR: Any, test_BF: Any) -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train_BF)
    probe = RidgeCV(alphas=np.logspace(-1, 5, 13)).fit(scaler.transform(train_BF), numbers_BR)
    return probe.predict(scaler.transform(test_BF))


def test_brightness_contrast_and_saturation_of_an_edit_are_read_better_than_by_a_ridge_probe(
    photo_edits: World, record_property: Callable[[str, object], None]
) -> None:
    train, test = photo_edits.examples("train"), photo_edits.examples("test")
    assert len(train) + len(test) >= NUM_EDITS - photo_edits.dataset.counts["excluded"]
    train_BPV, test_BPV = features_of(photo_edits, train), features_of(photo_edits, test)
    expected_BR = numbers_of(test)
    found = trained(photo_edits, CONFIG)
    reader = HeadReader(found.model, found.language, AnswerSpace.model_validate(found.output.facts["answer_space"]))
    model = pearson(reader.numbers(test_BPV, [""] * len(test)).numpy(), expected_BR)
    features = [values.astype(np.float64).mean(axis=1) for values in (train_BPV, test_BPV)]
    probe = pearson(ridge(features[0], numbers_of(train), features[1]), expected_BR)
    shuffled = pearson(reader.numbers(np.roll(test_BPV, 1, axis=0), [""] * len(test)).numpy(), expected_BR)
    report = f"Pearson of {', '.join(NAMES)}: model {model}, ridge probe {probe}, another picture {shuffled}"
    print(f"\n{report}")
    record_property("figures", report)
    assert all(one > other for one, other in zip(model, probe, strict=True)), report
    assert max(map(abs, shuffled)) < 0.25, report
