"""The self-contained page report.html: pictures, curves and styles are inside it."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from infra.errors import DataError
from training.against import Against
from training.report import Range, Report, Slice

METRIC_NAMES = {
    "vqa_accuracy": "VQA accuracy",
    "accuracy": "Accuracy",
    "f1_macro": "F1, macro",
    "precision_macro": "Precision, macro",
    "recall_macro": "Recall, macro",
    "f1_weighted": "F1, weighted",
    "caption_exact_match": "Caption exact match",
    "cider_d": "CIDEr-D",
    "rouge_l": "ROUGE-L",
    "bleu_4": "BLEU-4",
    "bleu_3": "BLEU-3",
    "bleu_2": "BLEU-2",
    "bleu_1": "BLEU-1",
    "hard_negative_accuracy": "Right caption likelier",
    "perplexity": "Perplexity",
    "neg_mse": "Negative squared error",
    "mse": "Mean squared error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "text_to_image_recall_at_1": "Image found by text, first",
    "text_to_image_recall_at_5": "Image found by text, among 5",
    "text_to_image_recall_at_10": "Image found by text, among 10",
    "image_to_text_recall_at_1": "Text found by image, first",
    "image_to_text_recall_at_5": "Text found by image, among 5",
    "image_to_text_recall_at_10": "Text found by image, among 10",
}
"""Known metrics in the order of the page; others follow under their own key."""
_HEADLINES = (
    "vqa_accuracy", "accuracy", "caption_exact_match", "cider_d", "rouge_l", "bleu_4", "pearson",
    "text_to_image_recall_at_1",
)  # fmt: skip
_SHARES = frozenset({"vqa_accuracy", "accuracy", "caption_exact_match", "hard_negative_accuracy"})
Group = Literal["better", "worse", "best", "worst", "sample"]
_GROUPS: dict[Group, str] = {
    "better": "Better than the champion",
    "worse": "Worse than the champion",
    "best": "Best",
    "worst": "Worst",
    "sample": "Drawn at random",
}
_MAX_POINTS = 400
_CHART_WIDTH, _CHART_HEIGHT = 320.0, 140.0


@dataclass(frozen=True)
class GalleryItem:
    """One example with its picture, as the page shows it."""

    example_id: str
    image: bytes
    media_type: str
    task: str
    prompt: str
    prediction: str
    control_prediction: str
    references: tuple[str, ...]
    score: float
    group: Group
    champion_prediction: str | None = None
    """Where the item is shown because the champion answered otherwise."""
    champion_score: float | None = None

    @property
    def data_uri(self) -> str:
        if not self.media_type.startswith("image/"):
            raise DataError(
                f"example {self.example_id} has media type {self.media_type!r}; expected image/png or alike"
            )
        return f"data:{self.media_type};base64,{base64.b64encode(self.image).decode('ascii')}"

    @property
    def is_tiny(self) -> bool:
        """A PNG so small that scaling it up smoothly would blur it (its width is in bytes 16..20)."""
        return self.image[:4] == b"\x89PNG" and int.from_bytes(self.image[16:20], "big") <= 128


def render_report(report: Report, gallery: Sequence[GalleryItem] | None, against: Against | None = None) -> str:
    """One HTML page that needs nothing else: pictures, curves and styles are inside it. Without a gallery (None) it
    shows nothing of a single example, and says so."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"dot": _dot, "figure": _figure, "short": _short, "margin": _margin, "bar": _bar}
    environment.filters |= {"metric_name": _metric_name, "words": _words, "range": _range, "share": _share}
    environment.filters |= {"difference": _difference, "difference_range": _difference_range}
    slice_groups: dict[str, list[Slice]] = {}
    for each in report.slices:
        slice_groups.setdefault(each.name, []).append(each)
    template = environment.from_string(files("training").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        against=against,
        has_gallery=gallery is not None,
        headlines=[key for key in _HEADLINES if key in report.metrics],
        metric_keys=_in_order(report.metrics.keys() | report.control.keys()),
        slice_groups=slice_groups,
        slice_keys=_in_order({key for each in report.slices for key in each.metrics}),
        tables=_dataset_tables(report.dataset),
        charts=[_draw_chart(name, points) for name, points in sorted(report.curves.items()) if points],
        groups=[(key, title, [item for item in gallery or () if item.group == key]) for key, title in _GROUPS.items()],
    )


def _in_order(keys: Iterable[str]) -> list[str]:
    known = list(METRIC_NAMES)
    return sorted(keys, key=lambda key: (known.index(key) if key in METRIC_NAMES else len(known), key))


def _metric_name(key: str) -> str:
    return METRIC_NAMES.get(key, _words(key))


def _words(key: str) -> str:
    """A field's name as a person would write it: `num_images` becomes "images"."""
    text = key.removeprefix("num_").replace("_", " ")
    if text == "vqa":
        return "VQA"
    return text[:1].upper() + text[1:]


def _figure(value: Any, key: str = "") -> str:
    """A number for reading: shares in percent, counts with thin spaces, other figures to three places."""
    if key in _SHARES:
        return f"{100 * value:.1f}\u202f%"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.3f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.3g}"


def _range(found: Range, key: str) -> str:
    """Between which two figures a metric lies."""
    return f"{_figure(found.low, key)}\u2013{_figure(found.high, key)}"


def _share(count: int, counts: Sequence[int]) -> float:
    """In percent of its row; of darkness half, so that the number stays readable."""
    return round(50 * count / max(1, sum(counts)), 1)


def _dot(count: int, total: int) -> float:
    """Radius of a dot whose area is its share."""
    return round(2 + 12 * math.sqrt(count / total), 1)


def _short(value: float) -> str:
    """Three digits, for curves, whose values may be as small as a learning rate."""
    return f"{value:.3g}".replace("-", "\u2212")


def _margin(value: float, control: float, key: str) -> str:
    """How far the model is above its control: the difference, then the ratio."""
    difference = _difference(value - control, key)
    return f"{difference} ({value / control:.1f}\u00d7)" if control > 0 and value / control < 1000 else difference


def _difference(value: float, key: str) -> str:
    """Points for shares."""
    return f"{_signed(value, key)} points" if key in _SHARES else _signed(value, key)


def _difference_range(found: Range, key: str) -> str:
    return f"{_signed(found.low, key)} to {_signed(found.high, key)}"


def _signed(value: float, key: str) -> str:
    return (f"{100 * value:+.1f}" if key in _SHARES else f"{value:+.3f}").replace("-", "\u2212")


def _bar(value: float, others: Sequence[float]) -> float:
    """Width in percent, on the scale 0..1, or up to the largest of the others where that is above 1 (CIDEr-D)."""
    return round(100 * max(0.0, value) / max(1.0, *others), 2)


@dataclass(frozen=True)
class _Table:
    """One table of dataset statistics; `columns` is empty for plain name-value rows."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Any]]]


def _dataset_tables(dataset: Mapping[str, Any]) -> list[_Table]:
    """Scalars together in one table, then one table for each nested mapping; two levels make a matrix."""
    scalars = [(key, [value]) for key, value in dataset.items() if not isinstance(value, Mapping)]
    tables = [_Table("Overview", [], scalars)] if scalars else []
    for title, mapping in dataset.items():
        if not isinstance(mapping, Mapping) or not mapping:
            continue
        if all(isinstance(row, Mapping) for row in mapping.values()):
            columns = list(dict.fromkeys(column for row in mapping.values() for column in row))
            rows = [(name, [row.get(column, "") for column in columns]) for name, row in mapping.items()]
            tables.append(_Table(title, columns, rows))
        else:
            tables.append(_Table(title, [], [(name, [value]) for name, value in mapping.items()]))
    return tables


@dataclass(frozen=True)
class _Chart:
    """One series as SVG geometry, in the units of its view box."""

    name: str
    line: str
    ticks: list[tuple[float, float]]
    """(y, value) of the grid lines."""
    first: tuple[int, float]
    last: tuple[int, float]
    lowest: float
    highest: float
    end: tuple[float, float]


def _draw_chart(name: str, points: Sequence[tuple[int, float]]) -> _Chart:
    stride = math.ceil(len(points) / _MAX_POINTS)
    shown = [*points[:-1:stride], points[-1]]
    steps, values = [step for step, _ in points], [value for _, value in points]
    lowest, highest = min(values), max(values)
    span, run = (highest - lowest) or 1.0, (max(steps) - min(steps)) or 1

    def place(step: int, value: float) -> tuple[float, float]:
        return (
            round(_CHART_WIDTH * (step - min(steps)) / run, 1),
            round(_CHART_HEIGHT * (1 - (value - lowest) / span), 1),
        )

    places = [place(step, value) for step, value in shown]
    line = " ".join(f"{'L' if at else 'M'}{x} {y}" for at, (x, y) in enumerate(places))
    ticks = [(_CHART_HEIGHT * part / 2, highest - span * part / 2) for part in range(3)]
    return _Chart(name, line, ticks, points[0], points[-1], lowest, highest, places[-1])
