"""Which of two models serves: a pure function of scores and a rule, which returns its reasons in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import ConfigError

Alias = Literal["champion", "challenger"]
MetricName = Literal[
    "accuracy", "vqa_accuracy", "caption_exact_match", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"
]
"""What an evaluation can measure. A name outside this list would only be noticed after the training."""
METRIC_TASKS = {"accuracy": "classify", "vqa_accuracy": "vqa"}
"""The task that gives a metric; all others are of captions."""


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


class PromotionRule(BaseModel):
    """When a model may serve. Section `promotion` of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    primary_metric: MetricName
    """The metric in which a challenger must beat the champion."""
    minimum_gain: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """A gain of exactly zero never promotes."""
    control_margins: dict[MetricName, ControlMargin] = Field(min_length=1)
    """A model that answers as well about another picture does not look, whatever its score."""
    floors: dict[MetricName, float] = {}


@dataclass(frozen=True)
class ModelScores:
    """One model on one test split; `control` holds the same metrics with the images swapped."""

    model_digest: str
    metrics: Mapping[str, float]
    control: Mapping[str, float]


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
    """Raises ConfigError where the rule names a metric that was not measured."""
    if champion is not None and champion.model_digest == challenger.model_digest:
        reason = "this model is the champion already; nothing changes"
        return Promotion(case="is_champion", promoted=False, alias="champion", reasons=[reason])
    control_passed, control_reasons = _against_control(challenger, rule)
    floors_passed, floor_reasons = _against_floors(challenger, rule)
    reasons = control_reasons + floor_reasons
    if not control_passed:
        return Promotion(case="fails_control", promoted=False, alias=None, reasons=reasons)
    if not floors_passed:
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


def _against_champion(champion: ModelScores, challenger: ModelScores, rule: PromotionRule) -> tuple[bool, str]:
    name = rule.primary_metric
    new, old = _of(challenger.metrics, name, "metrics"), _of(champion.metrics, name, "champion's metrics")
    gain = new - old
    wins = gain > 0 and gain >= rule.minimum_gain
    needed = f"at least {rule.minimum_gain:.4f}" if rule.minimum_gain else "more than zero"
    verdict = "so it replaces the champion" if wins else "so the champion stays"
    return wins, f"{name} is {new:.4f} against the champion's {old:.4f}: {gain:+.4f} where {needed} is asked, {verdict}"


def _verdict(holds: bool) -> str:
    return "at least the required" if holds else "below the required"


def _of(values: Mapping[str, float], name: str, where: str) -> float:
    if name not in values:
        raise ConfigError(
            f"promotion: the metric {name!r} was not found in the {where}; expected one of "
            f"{', '.join(sorted(values)) or 'none: nothing was measured'}. Correct the rule or the test split."
        )
    return values[name]
