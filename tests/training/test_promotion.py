from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from infra.errors import ConfigError, IntegrityError
from training.evidence import ExampleScores, FirstTest, ModelScores
from training.promotion import decide_promotion
from training.promotion_rule import ControlMargin, PromotionRule, SliceFloor

RULE = PromotionRule(
    primary_metric="vqa_accuracy",
    minimum_gain=0.01,
    control_margins={
        "vqa_accuracy": ControlMargin(minimum_difference=0.35),
        "cider_d": ControlMargin(minimum_ratio=3),
    },
)


NUM_EXAMPLES = 1000
EXAMPLES_OF_AN_IMAGE = 4


def scores(
    name: str,
    vqa: float,
    control: float = 0.3,
    cider: float = 3.0,
    cider_control: float = 0.5,
    blind: float = 0.25,
) -> ModelScores:
    """The better of two such models is right wherever the other is."""
    order = np.random.default_rng(0).permutation(NUM_EXAMPLES)
    num_right = 0 if np.isnan(vqa) else round(vqa * NUM_EXAMPLES)
    return ModelScores(
        name,
        {"vqa_accuracy": vqa, "cider_d": cider},
        {"vqa_accuracy": control, "cider_d": cider_control},
        {"vqa_accuracy": blind, "cider_d": cider_control},
        examples(order < num_right),
    )


def examples(right: np.ndarray, examples_of_an_image: int = EXAMPLES_OF_AN_IMAGE) -> list[ExampleScores]:
    return [
        ExampleScores(
            f"example {at}",
            f"image {at // examples_of_an_image}",
            {"vqa_accuracy": value},
            {"task": "vqa", "digits": str(at % 2)},
        )
        for at, value in enumerate(right.astype(float).tolist())
    ]


def answered(name: str, right: np.ndarray, examples_of_an_image: int) -> ModelScores:
    return ModelScores(
        name,
        {"vqa_accuracy": right.mean()},
        {"vqa_accuracy": 0.0},
        {"vqa_accuracy": 0.0},
        examples(right, examples_of_an_image),
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
    found = decide_promotion(scores("old", 0.80), scores("new", 0.84), RULE)
    assert (found.case, found.promoted, found.alias) == ("wins", True, "champion")
    assert found.reasons[-2].startswith(
        "vqa_accuracy is 0.8400 against the champion's 0.8000 on 1000 examples of 250 images: a gain of +0.0400, "
        "95 % interval +0.0"
    )
    assert found.reasons[-2].endswith("that is surely above the asked 0.0100 (probability 1.000)")
    assert found.reasons[-1] == "it replaces the champion"


def test_a_gain_that_may_be_chance_does_not_win_and_a_lower_confidence_lets_it() -> None:
    old, new = scores("old", 0.80), scores("new", 0.803)
    rule = RULE.model_copy(update={"minimum_gain": 0.0})
    found = decide_promotion(old, new, rule)
    assert (found.case, found.alias) == ("loses", "challenger")
    assert "not surely above the asked 0.0000" in found.reasons[-2]
    assert decide_promotion(old, new, rule.model_copy(update={"confidence": 0.5})).case == "wins"


@pytest.mark.parametrize("new", [0.70, 0.80, 0.805, 0.815])
def test_a_model_that_is_not_better_enough_becomes_challenger(new: float) -> None:
    found = decide_promotion(scores("old", 0.80), scores("new", new), RULE)
    assert (found.case, found.promoted, found.alias) == ("loses", False, "challenger")


def test_an_equal_model_does_not_win_without_a_minimum_gain() -> None:
    rule = RULE.model_copy(update={"minimum_gain": 0.0})
    assert decide_promotion(scores("old", 0.8), scores("new", 0.8), rule).case == "loses"


def test_the_order_of_the_examples_changes_nothing() -> None:
    old, new = scores("old", 0.80), scores("new", 0.82)
    found = decide_promotion(old, new, RULE)
    assert decide_promotion(replace(old, examples=old.examples[::-1]), new, RULE) == found
    assert decide_promotion(old, replace(new, examples=new.examples[::-1]), RULE) == found


def test_a_few_images_give_no_confidence_however_large_the_gain() -> None:
    old, new = (answered(name, np.full(76, right), 4) for name, right in (("old", 0), ("new", 1)))
    rule = PromotionRule.model_validate(
        {"primary_metric": "vqa_accuracy", "control_margins": {"vqa_accuracy": {"minimum_difference": 0.1}}}
    )
    found = decide_promotion(old, new, rule)
    assert found.case == "loses"
    assert "on 76 examples of 19 images" in found.reasons[-2]
    assert "20 images are needed for a confidence" in found.reasons[-2]


def test_models_scored_on_other_examples_are_not_compared() -> None:
    old, new = scores("old", 0.80), scores("new", 0.84)
    with pytest.raises(IntegrityError, match="1 examples with a score of vqa_accuracy are the challenger's only and 0"):
        decide_promotion(replace(old, examples=old.examples[1:]), new, RULE)


@pytest.mark.parametrize(("num_images", "examples_of_an_image"), [(20, 3), (100, 3)])
def test_of_1000_equal_models_at_most_5_percent_are_promoted(num_images: int, examples_of_an_image: int) -> None:
    """The same model answers twice; mostly it understands an image or not, so its answers about one go together."""
    rule = PromotionRule(
        primary_metric="vqa_accuracy", control_margins={"vqa_accuracy": ControlMargin(minimum_difference=0.1)}
    )
    generator = np.random.default_rng(0)
    easy = generator.beta(4, 2, num_images).repeat(examples_of_an_image)

    def answers(name: str) -> ModelScores:
        luck = generator.random(num_images).repeat(examples_of_an_image)
        own = generator.random(len(easy)) < 0.3
        return answered(name, np.where(own, generator.random(len(easy)), luck) < easy, examples_of_an_image)

    promoted = sum(decide_promotion(answers("old"), answers("new"), rule).promoted for _ in range(1000))
    assert promoted <= 50


def test_3_points_on_2000_examples_are_found_in_4_of_5_trials() -> None:
    """Scores of 0.65 and 0.68. The two agree on 83 % of the examples, as one recipe trained twice may."""
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        old = generator.random(2000) < generator.beta(6.5, 3.5, 500).repeat(4)
        flips = generator.random(2000) < np.where(old, 0.07 / 0.65, 0.10 / 0.35)
        champion, challenger = answered("old", old, 4), answered("new", old ^ flips, 4)
        found += decide_promotion(champion, challenger, RULE.model_copy(update=ONLY_THE_GAIN)).promoted
    assert found >= 160


ONLY_THE_GAIN = {"minimum_gain": 0.0, "control_margins": {"vqa_accuracy": ControlMargin(minimum_difference=0.1)}}


@pytest.mark.parametrize("margin", [{"minimum_difference": 0.05}, {"minimum_ratio": 1.05}])
@pytest.mark.parametrize("champion", [None, scores("old", 0.5)])
@pytest.mark.parametrize("score", [0.0, 0.2, 0.9, 1.0])
def test_a_model_whose_control_equals_its_score_is_refused_whatever_its_score(
    margin: dict[str, float], champion: ModelScores | None, score: float
) -> None:
    rule = PromotionRule(primary_metric="vqa_accuracy", control_margins={"vqa_accuracy": ControlMargin(**margin)})
    found = decide_promotion(champion, scores("new", score, control=score), rule)
    assert (found.case, found.promoted, found.alias) == ("fails_control", False, None)


def test_the_champion_against_itself_changes_nothing() -> None:
    found = decide_promotion(scores("a", 0.8), scores("a", 0.8), RULE)
    assert (found.case, found.promoted, found.alias) == ("is_champion", False, "champion")


def test_below_a_floor_nothing_serves() -> None:
    rule = RULE.model_copy(update={"floors": {"cider_d": 4.0}})
    found = decide_promotion(None, scores("a", 0.8), rule)
    assert (found.case, found.alias) == ("fails_floor", None)
    assert "cider_d is 3.0000, below the required 4.0000" in found.reasons


def test_a_gain_on_new_examples_does_not_excuse_forgetting_the_old() -> None:
    """On 400 examples, those the champion was first tested on, the challenger loses 0.1; on the rest it gains 0.2."""
    at = np.arange(NUM_EXAMPLES)
    champion = replace(
        answered("old", at % 10 < 8, 4), first_test=FirstTest("in May", frozenset(f"example {n}" for n in range(400)))
    )
    challenger = answered("new", (at % 10 < 7) | (at >= 400), 4)
    rule = RULE.model_copy(update=ONLY_THE_GAIN)
    assert decide_promotion(champion, challenger, rule).case == "wins"
    assert decide_promotion(champion, challenger, rule.model_copy(update={"forgetting": 0.2})).case == "wins"
    found = decide_promotion(champion, challenger, rule.model_copy(update={"forgetting": 0.02}))
    assert (found.case, found.promoted, found.alias) == ("loses", False, "challenger")
    told = (
        "in the champion's first test (in May), vqa_accuracy changes on 400 examples of 100 images: a gain of -0.1000"
    )
    assert found.reasons[-2].startswith(told)
    assert found.reasons[-2].endswith("a loss above 0.0200 is not ruled out")
    assert found.reasons[-1] == "the champion stays"


def test_where_no_old_example_is_left_forgetting_cannot_be_ruled_out() -> None:
    rule = RULE.model_copy(update={"forgetting": 1.0})
    champion = replace(scores("old", 0.80), first_test=FirstTest("in May", frozenset(["gone"])))
    found = decide_promotion(champion, scores("new", 0.90), rule)
    assert found.case == "loses"
    told = "none of the examples of the champion's first test (in May) has a score of vqa_accuracy today"
    assert found.reasons[-2] == told


def test_a_first_test_on_few_images_does_not_rule_forgetting_out() -> None:
    few = FirstTest("in May", frozenset(f"example {number}" for number in range(76)))
    champion = replace(scores("old", 0.5), first_test=few)
    found = decide_promotion(champion, scores("new", 0.9), RULE.model_copy(update={"forgetting": 1.0}))
    assert found.case == "loses"
    assert "on 76 examples of 19 images" in found.reasons[-2]
    assert found.reasons[-2].endswith("20 images are needed for a confidence")


def test_a_slice_below_its_floor_keeps_a_better_model_from_serving() -> None:
    """The odd examples hold 0.68, the even ones 0.88, of a model that wins."""
    right = np.array([at % 200 < (176 if at % 2 == 0 else 136) for at in range(NUM_EXAMPLES)])
    new = replace(scores("new", 0.78), examples=examples(right))
    floors = tuple(
        SliceFloor(attribute="digits", value=value, metric="vqa_accuracy", floor=0.75) for value in ("0", "1")
    )
    assert decide_promotion(scores("old", 0.5), new, RULE).case == "wins"
    assert decide_promotion(None, new, RULE.model_copy(update={"slice_floors": floors[:1]})).promoted
    found = decide_promotion(scores("old", 0.5), new, RULE.model_copy(update={"slice_floors": floors}))
    assert (found.case, found.promoted, found.alias) == ("fails_floor", False, None)
    assert "vqa_accuracy is 0.8800 on the 500 examples with digits=0, at least the required 0.7500" in found.reasons
    assert "vqa_accuracy is 0.6800 on the 500 examples with digits=1, below the required 0.7500" in found.reasons


def test_a_slice_without_examples_is_named() -> None:
    floor = SliceFloor(attribute="digits", value="7", metric="vqa_accuracy", floor=0.1)
    with pytest.raises(ConfigError, match="no test example with digits=7 has a score of vqa_accuracy"):
        decide_promotion(None, scores("a", 0.8), RULE.model_copy(update={"slice_floors": (floor,)}))


@pytest.mark.parametrize("value", [float("nan")])
def test_a_score_that_is_no_number_never_passes(value: float) -> None:
    assert decide_promotion(None, scores("a", value), RULE).case == "fails_control"


def test_a_metric_that_was_not_measured_is_named() -> None:
    rule = PromotionRule(
        primary_metric="rouge_l", minimum_gain=0, control_margins={"rouge_l": ControlMargin(minimum_ratio=2)}
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
        {"control_margins": {"rouge_l": {"minimum_ratio": 1}}},
        {"control_margins": {"rouge_l": {"minimum_difference": 0}}},
        {"control_margins": {"rouge_l": {"minimum_difference": -1, "minimum_ratio": 2}}},
        {"control_margins": {"cider_d": {"minimum_ratio": 2}}},
        {"confidence": 1.0},
        {"confidence": 0.2},
        {"slice_floors": [{"attribute": "task", "value": "vqa", "metric": "bleu_1", "floor": 0.1}]},
    ],
)
def test_a_rule_that_cannot_hold_is_refused(wrong: dict[str, Any]) -> None:
    right = {"primary_metric": "rouge_l", "minimum_gain": 0, "control_margins": {"rouge_l": {"minimum_ratio": 2}}}
    PromotionRule.model_validate(right)
    with pytest.raises(ValidationError):
        PromotionRule.model_validate(right | wrong)


def test_a_rule_knows_every_metric_that_it_asks_for() -> None:
    floor = SliceFloor(attribute="task", value="classify", metric="accuracy", floor=0.5)
    rule = RULE.model_copy(update={"floors": {"bleu_1": 0.1}, "slice_floors": (floor,)})
    assert set(rule.metrics) == {"vqa_accuracy", "cider_d", "bleu_1", "accuracy"}


def test_a_metric_without_a_score_for_each_example_cannot_decide() -> None:
    with pytest.raises(ValidationError, match="bleu_4 is one figure for all examples, from which neither a confidence"):
        PromotionRule(primary_metric="bleu_4", control_margins={"bleu_4": ControlMargin(minimum_ratio=2)})


def test_a_model_that_is_as_good_without_an_image_is_refused_however_bad_it_is_with_another() -> None:
    found = decide_promotion(None, scores("a", 0.8, control=0.1, blind=0.7), RULE)
    assert (found.case, found.alias) == ("fails_control", None)
    assert any("without an image 0.7000" in reason and "below the required" in reason for reason in found.reasons)
