"""Captions of unseen aerial photos, generated as evaluation does."""

from collections import Counter
from collections.abc import Callable

import pytest
from real_training import World, answered, text_scores, trained

from training.asking import Reply

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.usefixtures("one_rank")]
CONFIG = {
    "mapper": {"kind": "mlp", "prefix_tokens": 4, "width": 256, "dropout": 0.1},
    "objectives": {"caption": {"prompt": ""}},
    "regime": {"kind": "full", "learning_rate": 2e-3},
    "global_batch_images": 16,
    "epochs": 8,
    "max_targets_per_image": 2,
    "learning_rate": 2e-3,
    "validation_images": 0,
    "checkpoint_every_steps": 10_000,
}


def test_unseen_aerial_photos_are_captioned(
    ucm_captions: World, record_property: Callable[[str, object], None]
) -> None:
    train, test = ucm_captions.examples("train"), ucm_captions.examples("test")
    predictions, controls = answered(ucm_captions, trained(ucm_captions, CONFIG), test, max_new_tokens=48)
    frequent = Counter(target for example in train for target in example.targets).most_common(1)[0][0]
    figures = {
        "model": predictions,
        "another picture": controls,
        "most frequent caption": {example.example_id: Reply(frequent) for example in test},
    }
    found = {name: text_scores(test, replies)["cider_d"] for name, replies in figures.items()}
    report = "CIDEr-D " + ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"\n{report}")
    record_property("figures", report)
    assert found["model"] >= 1.0, report
    assert max(value for name, value in found.items() if name != "model") < 0.75, report
