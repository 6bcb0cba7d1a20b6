from typing import Any

import numpy as np
import pytest

from training.evidence import ExampleScores, ModelScores
from training.promotion import decide_quantised
from training.promotion_rule import ControlMargin, PromotionRule, SliceFloor

RULE = PromotionRule(
    primary_metric="vqa_accuracy", control_margins={"vqa_accuracy": ControlMargin(minimum_difference=0.2)}
)
NUM_EXAMPLES = 2000
RIGHT = np.arange(NUM_EXAMPLES) % 5 != 0
"""As the original answered; one image has four examples."""


def scores(right: np.ndarray, control: float = 0.3, per_image: int = 4) -> ModelScores:
    metrics = {"vqa_accuracy": float(right.mean())}
    rows = [
        ExampleScores(str(at), f"image {at // per_image}", {"vqa_accuracy": float(value)}, {"digits": str(at % 2)})
        for at, value in enumerate(right)
    ]
    return ModelScores(f"{right.sum()}", metrics, {"vqa_accuracy": control}, {"vqa_accuracy": control}, rows)


def worse(num_wrong: int) -> np.ndarray:
    found = RIGHT.copy()
    found[np.random.default_rng(0).choice(np.flatnonzero(RIGHT), num_wrong, replace=False)] = False
    return found


def test_a_model_that_answers_alike_passes_and_says_so() -> None:
    found = decide_quantised(None, scores(RIGHT), scores(RIGHT), RULE, max_loss=0.01)
    assert (found.case, found.promoted, found.alias) == ("no_champion", True, "champion")
    assert "against the original's 0.8000 on 2000 examples of 500 images: a gain of +0.0000" in found.reasons[-2]
    assert found.reasons[-2].endswith("a loss of 0.0100 or more is ruled out")


@pytest.mark.parametrize(("num_wrong", "passes"), [(4, True), (19, False), (100, False)])
def test_a_loss_must_be_surely_below_what_is_allowed(num_wrong: int, passes: bool) -> None:
    """19 of 2,000 are 0.0095: below 0.01, and not surely so."""
    found = decide_quantised(None, scores(RIGHT), scores(worse(num_wrong)), RULE, max_loss=0.01)
    assert (found.promoted, found.alias) == ((True, "champion") if passes else (False, None))
    assert found.case == ("no_champion" if passes else "loses_quality")
    assert ("not ruled out" in found.reasons[-2]) != passes
    assert decide_quantised(None, scores(RIGHT), scores(worse(num_wrong)), RULE, max_loss=0.2).promoted


@pytest.mark.parametrize(
    ("rule", "control", "case"),
    [
        ({}, 0.7, "fails_control"),
        ({"floors": {"vqa_accuracy": 0.81}}, 0.3, "fails_floor"),
        (
            {"slice_floors": (SliceFloor(attribute="digits", value="1", metric="vqa_accuracy", floor=0.81),)},
            0.3,
            "fails_floor",
        ),
    ],
)
def test_what_the_rule_asks_of_every_model_is_asked_of_a_smaller_one(
    rule: dict[str, Any], control: float, case: str
) -> None:
    asked = RULE.model_copy(update=rule)
    found = decide_quantised(None, scores(RIGHT), scores(RIGHT, control), asked, max_loss=0.5)
    assert (found.case, found.promoted, found.alias) == (case, False, None)


def test_a_few_images_give_no_confidence() -> None:
    found = decide_quantised(None, scores(RIGHT, per_image=200), scores(RIGHT, per_image=200), RULE, max_loss=0.5)
    assert not found.promoted and "20 images are needed" in found.reasons[-2]


def test_where_a_person_has_the_last_word_it_waits_for_it() -> None:
    asked = RULE.model_copy(update={"approval": "required"})
    found = decide_quantised(None, scores(RIGHT), scores(RIGHT), asked, max_loss=0.01)
    assert (found.case, found.promoted, found.alias) == ("awaits_approval", False, "challenger")
    assert decide_quantised(None, scores(RIGHT), scores(worse(100)), asked, max_loss=0.01).case == "loses_quality"


def test_it_meets_the_champion_among_smaller_models_as_any_model_meets_its_own() -> None:
    before = decide_quantised(scores(worse(100)), scores(RIGHT), scores(RIGHT), RULE, max_loss=0.01)
    assert (before.case, before.promoted, before.alias) == ("wins", True, "champion")
    assert "against the champion's 0.7500" in before.reasons[-2]
    again = decide_quantised(scores(RIGHT), scores(worse(100)), scores(worse(100)), RULE, max_loss=0.01)
    assert (again.case, again.promoted, again.alias) == ("loses", False, "challenger")


def test_the_champion_made_smaller_again_changes_nothing() -> None:
    asked = RULE.model_copy(update={"approval": "required"})
    for rule in (RULE, asked):
        found = decide_quantised(scores(RIGHT), scores(worse(4)), scores(RIGHT), rule, max_loss=0.01)
        assert (found.case, found.promoted, found.alias) == ("is_champion", False, "champion")
