"""`classify` by a head and by label texts, on locked features of ten classes of real photos."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from real_training import World, trained

from data_prep.dataset import Example
from training.head_outputs import HeadReader
from training.objectives.answer_space import AnswerSpace

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.usefixtures("one_rank")]
COMMON = {"global_batch_images": 64, "validation_images": 0, "checkpoint_every_steps": 10_000}
BY_HEAD = {
    **COMMON,
    "mapper": {"kind": "mlp", "prefix_tokens": 1, "width": 256, "dropout": 0.2},
    # Without a prompt the head reads the prefix itself, where the mapper has a straight way to it.
    "objectives": {"classify": {"by": "head", "prompt": ""}},
    "epochs": 4,
    "learning_rate": 3e-3,
}
BY_TEXT = {
    **COMMON,
    "mapper": {"kind": "mlp", "prefix_tokens": 4, "width": 256, "dropout": 0.2},
    "objectives": {"classify": {"by": "text", "prompt": ""}},
    "regime": {"kind": "full", "learning_rate": 2e-3},
    "epochs": 3,
    "learning_rate": 3e-3,
}


@pytest.mark.parametrize("config", [BY_HEAD, BY_TEXT], ids=["head", "text"])
def test_classes_of_photos_are_told_from_locked_features(
    config: dict[str, Any], cifar10: World, record_property: Callable[[str, object], None]
) -> None:
    test = cifar10.examples("test")
    found = trained(cifar10, config)
    reader = HeadReader(found.model, found.language, AnswerSpace.model_validate(found.output.facts["answer_space"]))
    patches_BPV = cifar10.stored.gather([example.image_id for example in test])
    labels = sorted({example.label for example in cifar10.examples("train")})
    assert len(labels) == 10

    def accuracy(patches_BPV: Any) -> float:
        asked = [example.prompt for example in test]
        if config is BY_HEAD:
            return right(reader.labels(patches_BPV, asked), test)
        scores_BC = reader.label_text_scores(patches_BPV, asked, labels)
        return right([labels[number] for number in scores_BC.argmax(dim=1).tolist()], test)

    model, shuffled = accuracy(patches_BPV), accuracy(np.roll(patches_BPV, 1, axis=0))
    majority = Counter(example.label for example in test).most_common(1)[0][1] / len(test)
    report = f"accuracy {model:.3f}, most frequent class {majority:.3f}, another picture {shuffled:.3f}"
    print(f"\n{report}")
    record_property("figures", report)
    assert model >= 0.70, report
    assert shuffled < 0.20, report


def right(found: Sequence[str], test: Sequence[Example]) -> float:
    return sum(label == example.label for label, example in zip(found, test, strict=True)) / len(test)
