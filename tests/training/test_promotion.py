from typing import Any

import pytest
from pydantic import ValidationError

from infra.errors import ConfigError
from training.promotion import ControlMargin, ModelScores, PromotionRule, decide_promotion

RULE = PromotionRule(
    primary_metric="vqa_accuracy",
    minimum_gain=0.01,
    control_margins={
        "vqa_accuracy": ControlMargin(minimum_difference=0.35),
        "cider_d": ControlMargin(minimum_ratio=3),
    },
)


def scores(name: str, vqa: float, control: float = 0.3, cider: float = 3.0, cider_control: float = 0.5) -> ModelScores:
    return ModelScores(
        name, {"vqa_accuracy": vqa, "cider_d": cider}, {"vqa_accuracy": control, "cider_d": cider_control}
    )


def test_the_first_model_that_looks_becomes_champion() -> None:
    found = decide_promotion(None, scores("a", 0.8), RULE)
    assert (found.case, found.promoted, found.alias) == ("no_champion", True, "champion")
    assert any("0.8000" in reason and "0.3500" in reason for reason in found.reasons)


@pytest.mark.parametrize("champion", [None, scores("old", 0.5)])
@pytest.mark.parametrize(
    "blind", [scores("a", 0.99, control=0.8), scores("a", 0.99, cider_control=1.1), scores("a", 0.99, cider=0)]
)
def test_a_model_that_does_not_look_never_serves(champion: ModelScores | None, blind: ModelScores) -> None:
    found = decide_promotion(champion, blind, RULE)
    assert (found.case, found.promoted, found.alias) == ("fails_control", False, None)
    assert any("below the required" in reason for reason in found.reasons)


def test_a_control_of_zero_passes_for_any_positive_score() -> None:
    assert decide_promotion(None, scores("a", 0.8, cider=0.1, cider_control=0.0), RULE).promoted
    assert not decide_promotion(None, scores("a", 0.8, cider=0.0, cider_control=0.0), RULE).promoted


def test_a_better_model_replaces_the_champion() -> None:
    found = decide_promotion(scores("old", 0.80), scores("new", 0.82), RULE)
    assert (found.case, found.promoted, found.alias) == ("wins", True, "champion")
    assert "0.8200 against the champion's 0.8000: +0.0200" in found.reasons[-1]


@pytest.mark.parametrize("new", [0.70, 0.80, 0.805])
def test_a_model_that_is_not_better_enough_becomes_challenger(new: float) -> None:
    found = decide_promotion(scores("old", 0.80), scores("new", new), RULE)
    assert (found.case, found.promoted, found.alias) == ("loses", False, "challenger")


def test_an_equal_model_does_not_win_without_a_minimum_gain() -> None:
    rule = RULE.model_copy(update={"minimum_gain": 0.0})
    assert decide_promotion(scores("old", 0.8), scores("new", 0.8), rule).case == "loses"


def test_the_champion_against_itself_changes_nothing() -> None:
    found = decide_promotion(scores("a", 0.8), scores("a", 0.8), RULE)
    assert (found.case, found.promoted, found.alias) == ("is_champion", False, "champion")


def test_below_a_floor_nothing_serves() -> None:
    rule = RULE.model_copy(update={"floors": {"cider_d": 4.0}})
    found = decide_promotion(None, scores("a", 0.8), rule)
    assert (found.case, found.alias) == ("fails_floor", None)
    assert "cider_d is 3.0000, below the required 4.0000" in found.reasons


@pytest.mark.parametrize("value", [float("nan")])
def test_a_score_that_is_no_number_never_passes(value: float) -> None:
    assert decide_promotion(None, scores("a", value), RULE).case == "fails_control"


def test_a_metric_that_was_not_measured_is_named() -> None:
    rule = PromotionRule(
        primary_metric="bleu_4", minimum_gain=0, control_margins={"rouge_l": ControlMargin(minimum_ratio=2)}
    )
    with pytest.raises(ConfigError, match="'rouge_l' was not found in the metrics; expected one of cider_d, vqa_acc"):
        decide_promotion(None, scores("a", 0.8), rule)


@pytest.mark.parametrize(
    "wrong",
    [
        {"control_margins": {}},
        {"control_margins": {"rouge_l": {}}},
        {"minimum_gain": -1},
        {"minimum_gian": 1},
        {"control_margins": {"rouge_l": {"minimum_ratio": 0.5}}},
    ],
)
def test_a_rule_that_cannot_hold_is_refused(wrong: dict[str, Any]) -> None:
    right = {"primary_metric": "rouge_l", "minimum_gain": 0, "control_margins": {"rouge_l": {"minimum_ratio": 2}}}
    PromotionRule.model_validate(right)
    with pytest.raises(ValidationError):
        PromotionRule.model_validate(right | wrong)
