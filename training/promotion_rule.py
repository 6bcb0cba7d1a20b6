"""When a model may serve, as a recipe says it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MetricName = Literal[
    "accuracy", "vqa_accuracy", "caption_exact_match", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d",
    "neg_mse", "hard_negative_accuracy",
    "text_to_image_recall_at_1", "text_to_image_recall_at_5", "text_to_image_recall_at_10",
]  # fmt: skip
"""What an evaluation can measure. A name outside this list would only be noticed after the training."""
EXAMPLE_METRICS = (
    "accuracy", "vqa_accuracy", "caption_exact_match", "rouge_l", "cider_d", "neg_mse", "hard_negative_accuracy",
    "text_to_image_recall_at_1", "text_to_image_recall_at_5", "text_to_image_recall_at_10",
)  # fmt: skip
"""Those whose value over a set is the mean of its examples': BLEU pools n-grams over all of them."""
METRIC_TASKS = {"accuracy": "classify", "vqa_accuracy": "vqa", "neg_mse": "regress"}
"""The task that gives a metric; all others are of captions."""


class ControlMargin(BaseModel):
    """How far a metric must stay above its value with the images swapped, and above that with the mean prefix in place
    of every image's. At least one of the two is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    minimum_difference: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    minimum_ratio: float | None = Field(default=None, gt=1, allow_inf_nan=False)

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
    """A slice as the report names it: `task`, `source`, `answer_words`, or one of the examples' attributes."""
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
    """A model that answers as well about another picture does not look, whatever its score. One is of the primary
    metric: what decides must come from looking."""
    approval: Literal["none", "required"] = Field(default="none", exclude_if=lambda value: value == "none")
    """`required` leaves a model that passes to a person: `frostline approve` or `frostline refuse`."""
    floors: dict[MetricName, float] = {}
    slice_floors: tuple[SliceFloor, ...] = ()
    """A better mean can hide a kind of example that got worse."""
    forgetting: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What the primary metric may lose at most, and surely so, on the examples of the champion's first evaluation
    that is still in the store. New kinds of example can hide that old ones are forgotten. None allows any loss."""

    _can_be_resampled = field_validator("primary_metric")(_with_example_scores)

    @model_validator(mode="after")
    def _primary_metric_has_a_margin(self) -> "PromotionRule":
        if self.primary_metric not in self.control_margins:
            raise ValueError(f"control_margins has none of the primary metric {self.primary_metric}; expected one")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that the rule asks for."""
        sliced = (each.metric for each in self.slice_floors)
        return (*self.control_margins, *self.floors, *sliced)
