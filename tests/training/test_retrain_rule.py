"""What calls for a retrain, by facts."""

from typing import Any

import pytest
from pydantic import ValidationError

from training.retrain_rule import ChampionFacts, DriftFacts, RetrainDecision, WatchRule, decide_retrain

EVERYTHING = WatchRule(new_examples=100, champion_age_days=30, drift_p_value=0.01)
QUIET = ChampionFacts(
    version="3", age_days=1, num_new_examples=99, num_new_images=40,
    drift=DriftFacts(p_value=0.01, discrepancy=0.1, num_trained=1000, num_new=40),
    holds_floors=True, floors_told=["accuracy is 0.9, at least the required 0.8"],
)  # fmt: skip


def decided(rule: WatchRule = EVERYTHING, **changed: Any) -> RetrainDecision:
    return decide_retrain("birds", "d" * 64, QUIET.model_copy(update=changed), rule)


def fired(decision: RetrainDecision) -> set[str]:
    assert decision.retrain == any(trigger.fires for trigger in decision.triggers)
    return {trigger.name for trigger in decision.triggers if trigger.fires}


def test_a_model_without_a_champion_is_trained() -> None:
    decision = decide_retrain("birds", "d" * 64, None, EVERYTHING)
    assert fired(decision) == {"no_champion"}
    assert decision.triggers[0].reason == "birds has no champion yet"


def test_nothing_calls_where_every_fact_is_just_short_of_its_bound() -> None:
    decision = decided()
    assert fired(decision) == set()
    assert [trigger.name for trigger in decision.triggers] == ["new_examples", "champion_age", "drift", "floors"]


@pytest.mark.parametrize(
    ("trigger", "changed", "told"),
    [
        ("new_examples", {"num_new_examples": 100}, "100 examples are new since version 3"),
        ("champion_age", {"age_days": 30.0}, "trained 30.0 days ago; 30 call for a retrain"),
        (
            "drift",
            {"drift": DriftFacts(p_value=0.0005, discrepancy=0.4, num_trained=1000, num_new=40)},
            "40 new train images differ from 1000 that version 3 was trained on (p = 0.0005",
        ),
        ("floors", {"holds_floors": False, "floors_told": ["accuracy is 0.5, below"]}, "accuracy is 0.5, below"),
    ],
)
def test_each_fact_calls_for_a_retrain_by_itself_and_says_why(trigger: str, changed: dict[str, Any], told: str) -> None:
    decision = decided(**changed)
    assert fired(decision) == {trigger}
    assert told in next(each.reason for each in decision.triggers if each.fires)


def test_what_is_switched_off_is_not_told() -> None:
    rule = WatchRule(champion_age_days=30, drift_p_value=None, floors=False)
    decision = decided(rule, num_new_examples=10_000, holds_floors=False, age_days=29.9)
    assert [trigger.name for trigger in decision.triggers] == ["champion_age"]
    assert not decision.retrain


def test_floors_that_are_watched_and_not_there_are_told() -> None:
    told = {trigger.name: trigger.reason for trigger in decided(holds_floors=None, floors_told=[]).triggers}
    assert told["floors"] == "`promotion` has no floors to fall below"


def test_few_new_images_are_no_drift() -> None:
    decision = decided(drift=None, num_new_images=19)
    assert fired(decision) == set()
    assert decision.triggers[2].reason == "19 train images are new; 20 are needed to tell a drift"


def test_where_the_champions_dataset_is_gone_new_examples_call_and_drift_does_not() -> None:
    decision = decided(num_new_examples=None, num_new_images=None, drift=None)
    assert fired(decision) == {"new_examples"}
    assert "not in the store any more" in decision.triggers[2].reason


def test_a_rule_that_watches_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="every trigger is switched off"):
        WatchRule(drift_p_value=None, floors=False)
