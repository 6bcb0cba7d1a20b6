"""Which of two models serves: a pure function of scores and a rule, which returns its reasons in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.errors import ConfigError, IntegrityError

Alias = Literal["champion", "challenger"]
MetricName = Literal[
    "accuracy", "vqa_accuracy", "caption_exact_match", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"
]
"""What an evaluation can measure. A name outside this list would only be noticed after the training."""
EXAMPLE_METRICS = ("accuracy", "vqa_accuracy", "caption_exact_match", "rouge_l", "cider_d")
"""Those whose value over a set is the mean of its examples': BLEU pools n-grams over all of them."""
METRIC_TASKS = {"accuracy": "classify", "vqa_accuracy": "vqa"}
"""The task that gives a metric; all others are of captions."""
MINIMUM_IMAGES = 10
"""With fewer, a bootstrap's interval is too narrow, and more than 5 % of equal models would seem better."""


class ControlMargin(BaseModel):
    """How far a metric must stay above its value with the images swapped. At least one of the two is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    minimum_difference: float | None = Field(default=None, allow_inf_nan=False)
    minimum_ratio: float | None = Field(default=None, ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _says_something(self) -> "ControlMargin":
        if self.minimum_difference is None and self.minimum_ratio is None:
            raise ValueError("found neither minimum_difference nor minimum_ratio; expected at least one")
        return self


def _with_example_scores(metric: str) -> str:
    if metric not in EXAMPLE_METRICS:
        raise ValueError(
            f"{metric} is one figure for all examples, from which neither a confidence nor a slice can be computed; "
            f"expected one of {', '.join(EXAMPLE_METRICS)}"
        )
    return metric


class SliceFloor(BaseModel):
    """The least that the examples which share one value of one attribute must score."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    attribute: str
    """One of the examples' attributes, or `task`."""
    value: str
    metric: MetricName
    floor: float = Field(allow_inf_nan=False)

    _can_be_sliced = field_validator("metric")(_with_example_scores)


class PromotionRule(BaseModel):
    """When a model may serve. Section `promotion` of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    primary_metric: MetricName
    """The metric in which a challenger must beat the champion."""
    minimum_gain: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The gain must be above this, and surely so. A gain of exactly zero never promotes."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Of the gain's two-sided interval, whose lower end decides: so of 100 challengers that are no better, about
    100 * (1 - confidence) / 2 are promoted."""
    control_margins: dict[MetricName, ControlMargin] = Field(min_length=1)
    """A model that answers as well about another picture does not look, whatever its score."""
    floors: dict[MetricName, float] = {}
    slice_floors: tuple[SliceFloor, ...] = ()
    """A better mean can hide a kind of example that got worse."""

    _can_be_resampled = field_validator("primary_metric")(_with_example_scores)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that the rule asks for."""
        sliced = (each.metric for each in self.slice_floors)
        return (self.primary_metric, *self.control_margins, *self.floors, *sliced)


@dataclass(frozen=True)
class ExampleScores:
    """One test example: what it is and how it was answered."""

    example_id: str
    image_id: str
    scores: Mapping[str, float]
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class ModelScores:
    """One model on one test split; `control` holds the same metrics with the images swapped."""

    model_digest: str
    metrics: Mapping[str, float]
    control: Mapping[str, float]
    examples: Sequence[ExampleScores]


class Promotion(BaseModel):
    """A decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    case: Literal["no_champion", "is_champion", "fails_control", "fails_floor", "loses", "wins"]
    promoted: bool
    """Whether the champion changes."""
    alias: Alias | None
    """What the model is called afterwards. None: it must not serve."""
    reasons: list[str]


def decide_promotion(champion: ModelScores | None, challenger: ModelScores, rule: PromotionRule) -> Promotion:
    """Raises ConfigError where the rule names a metric or a slice that was not measured, IntegrityError where the
    two were scored on other examples."""
    if champion is not None and champion.model_digest == challenger.model_digest:
        reason = "this model is the champion already; nothing changes"
        return Promotion(case="is_champion", promoted=False, alias="champion", reasons=[reason])
    control_passed, control_reasons = _against_control(challenger, rule)
    floors_passed, floor_reasons = _against_floors(challenger, rule)
    slices_passed, slice_reasons = _against_slice_floors(challenger, rule)
    reasons = control_reasons + floor_reasons + slice_reasons
    if not control_passed:
        return Promotion(case="fails_control", promoted=False, alias=None, reasons=reasons)
    if not (floors_passed and slices_passed):
        return Promotion(case="fails_floor", promoted=False, alias=None, reasons=reasons)
    if champion is None:
        reasons.append("there is no champion yet, so this model becomes it")
        return Promotion(case="no_champion", promoted=True, alias="champion", reasons=reasons)
    wins, reason = _against_champion(champion, challenger, rule)
    return Promotion(
        case="wins" if wins else "loses",
        promoted=wins,
        alias="champion" if wins else "challenger",
        reasons=[*reasons, reason],
    )


def _against_control(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    for name, margin in sorted(rule.control_margins.items()):
        value, control = _of(scores.metrics, name, "metrics"), _of(scores.control, name, "control")
        told = f"{name} is {value:.4f}, with swapped images {control:.4f}"
        if margin.minimum_difference is not None:
            holds = value - control >= margin.minimum_difference
            passed &= holds
            reasons.append(
                f"{told}: a difference of {value - control:.4f}, {_verdict(holds)} {margin.minimum_difference:.4f}"
            )
        if margin.minimum_ratio is not None:
            # A product, because the control can be zero; and then only a positive value has looked.
            holds = value >= margin.minimum_ratio * control and value > 0
            passed &= holds
            ratio = f"{value / control:.2f}" if control else "no finite number of"
            reasons.append(f"{told}: {ratio} times the control, {_verdict(holds)} {margin.minimum_ratio:.2f} times")
    return passed, reasons


def _against_floors(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    for name, floor in sorted(rule.floors.items()):
        value = _of(scores.metrics, name, "metrics")
        passed &= value >= floor
        reasons.append(f"{name} is {value:.4f}, {_verdict(value >= floor)} {floor:.4f}")
    return passed, reasons


def _against_slice_floors(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    for asked in rule.slice_floors:
        found = [
            example.scores[asked.metric]
            for example in scores.examples
            if example.attributes.get(asked.attribute) == asked.value and asked.metric in example.scores
        ]
        where = f"{asked.attribute}={asked.value}"
        if not found:
            raise ConfigError(
                f"promotion.slice_floors: no test example with {where} has a score of {asked.metric}; expected some. "
                "Correct the rule or the test split."
            )
        value = math.fsum(found) / len(found)
        passed &= value >= asked.floor
        reasons.append(
            f"{asked.metric} is {value:.4f} on the {len(found)} examples with {where}, "
            f"{_verdict(value >= asked.floor)} {asked.floor:.4f}"
        )
    return passed, reasons


def _against_champion(champion: ModelScores, challenger: ModelScores, rule: PromotionRule) -> tuple[bool, str]:
    from training.metrics.bootstrap import paired_gain

    name = rule.primary_metric
    new, old = _of(challenger.metrics, name, "metrics"), _of(champion.metrics, name, "champion's metrics")
    ours, theirs = _by_example(challenger, name), _by_example(champion, name)
    if ours.keys() != theirs.keys():
        raise IntegrityError(
            f"promotion: {len(ours.keys() - theirs.keys())} examples with a score of {name} are the challenger's only "
            f"and {len(theirs.keys() - ours.keys())} the champion's only; expected the same examples of both. Evaluate "
            "both on the same test rows: remove the champion's evaluation of them and start again."
        )
    ids = sorted(ours)
    found = paired_gain(
        [theirs[each].scores[name] for each in ids],
        [ours[each].scores[name] for each in ids],
        [ours[each].image_id for each in ids],
        rule.confidence,
        above=rule.minimum_gain,
    )
    enough = found.num_images >= MINIMUM_IMAGES
    wins = enough and min(found.gain, found.interval.low) > rule.minimum_gain
    told = (
        f"{name} is {new:.4f} against the champion's {old:.4f} on {len(ids)} examples of {found.num_images} images: "
        f"a gain of {found.gain:+.4f}, {100 * rule.confidence:g} % interval {found.interval.low:+.4f} to "
        f"{found.interval.high:+.4f}"
    )
    if not enough:
        return False, f"{told}; {MINIMUM_IMAGES} images are needed for a confidence, so the champion stays"
    asked = f"{'is' if wins else 'is not'} surely above the asked {rule.minimum_gain:.4f}"
    verdict = "so it replaces the champion" if wins else "so the champion stays"
    return wins, f"{told}; it {asked} (probability {found.probability:.3f}), {verdict}"


def _by_example(scores: ModelScores, metric: str) -> dict[str, ExampleScores]:
    return {example.example_id: example for example in scores.examples if metric in example.scores}


def _verdict(holds: bool) -> str:
    return "at least the required" if holds else "below the required"


def _of(values: Mapping[str, float], name: str, where: str) -> float:
    if name not in values:
        raise ConfigError(
            f"promotion: the metric {name!r} was not found in the {where}; expected one of "
            f"{', '.join(sorted(values)) or 'none: nothing was measured'}. Correct the rule or the test split."
        )
    return values[name]
