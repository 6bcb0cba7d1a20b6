"""The evaluation report: the record behind report.json. Its page is made by `report_page`."""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

REPORT_SCHEMA_VERSION = 3
REPORT, REPORT_RECORD = "report/report.html", "report/report.json"
"""Names of the parts."""


def _finite(value: Any) -> Any:
    """The value without its non-finite numbers: such entries vanish from mappings and lists."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items() if not _is_nan(inner)}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value if not _is_nan(inner)]
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class Range(BaseModel):
    """An interval of confidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float


class Confusion(BaseModel):
    """Which label was taken for which, for `classify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    labels: list[str]
    said: list[str]
    counts: list[list[int]]
    """Rows are true labels, columns what was said, which may be no label."""


class ClassScores(BaseModel):
    """Of one label."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str
    num_examples: int = Field(ge=0)
    precision: float
    recall: float
    f1: float


class Bin(BaseModel):
    """The answers whose confidence lies between two ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float
    num_examples: int = Field(ge=1)
    mean_confidence: float
    accuracy: float


class CalibrationPlot(BaseModel):
    """Whether answers are right as often as the model is confident."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    error: float
    """Expected calibration error, 0..1."""
    bins: list[Bin]


class Robustness(BaseModel):
    """The scores with pictures made worse in one way."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_examples: int = Field(ge=0)
    metrics: dict[str, float]
    without: dict[str, float]
    """Of the same examples with their pictures as they are."""

    _drop_nan = field_validator("metrics", "without", mode="before")(_finite)


class Slice(BaseModel):
    """The scores of the examples that share one value of one attribute."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    value: str
    num_examples: int = Field(ge=0)
    metrics: dict[str, float]
    control: dict[str, float]
    intervals: dict[str, Range] = {}
    """Of the metrics that are means over examples, as in the report."""

    _drop_nan = field_validator("metrics", "control", mode="before")(_finite)


class Report(BaseModel):
    """What an evaluation found. A metric that could not be computed is absent: never NaN, never null."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: int
    model_name: str
    metrics: dict[str, float]
    control: dict[str, float]
    """The same metrics with every image swapped for another one: what the model scores without looking."""
    blind: dict[str, float] = {}
    """The same metrics with the mean prefix in place of every image's own."""
    intervals: dict[str, Range] = {}
    """Of the metrics that are means over examples: 95 %, by drawing images anew."""
    control_intervals: dict[str, Range] = {}
    classes: list[ClassScores] = []
    """Of `classify`, like the confusion."""
    confusion: Confusion | None = None
    calibration: dict[str, CalibrationPlot] = {}
    """By task, of answers that are right or wrong."""
    robustness: dict[str, Robustness] = {}
    """By corruption and severity."""
    slices: list[Slice]
    num_examples: dict[str, int]
    """By task."""
    dataset: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    """(global step, value) by series."""
    provenance: dict[str, str]

    _drop_nan = field_validator("metrics", "control", "blind", "dataset", mode="before")(_finite)

    @field_validator("curves", mode="before")
    @classmethod
    def _drop_points(cls, curves: Any) -> Any:
        """A point whose value is not finite goes as a whole."""
        if not isinstance(curves, Mapping):
            return curves
        return {name: [point for point in points if not any(map(_is_nan, point))] for name, points in curves.items()}


def report_json(report: Report) -> str:
    """The text of report.json: sorted keys, so that equal reports are equal bytes."""
    return json.dumps(report.model_dump(mode="json"), sort_keys=True, indent=2, allow_nan=False) + "\n"
