"""The page is self-contained, complete and safe to open; report.json is stable and without NaN."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from pydantic import ValidationError

from infra.errors import DataError
from training.against import Against, Difference
from training.report import ClassScores, Confusion, Range, Report, Slice, report_json
from training.report_page import METRIC_NAMES, GalleryItem, render_report

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (64).to_bytes(4, "big") + (48).to_bytes(4, "big")
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x.png>"


def make_report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "schema_version": 1,
        "model_name": "digits",
        "metrics": {key: 0.801 + index / 1000 for index, key in enumerate(METRIC_NAMES)} | {"own_metric": 0.123},
        "control": {key: 0.201 + index / 1000 for index, key in enumerate(METRIC_NAMES)} | {"own_metric": 0.1},
        "blind": {key: 0.101 + index / 1000 for index, key in enumerate(METRIC_NAMES)},
        "slices": [
            Slice(name="task", value="vqa", num_examples=30, metrics={"vqa_accuracy": 0.9}, control={}),
            Slice(name="question_type", value="count", num_examples=9, metrics={"vqa_accuracy": 0.5}, control={}),
        ],
        "intervals": {"vqa_accuracy": Range(low=0.71, high=0.89)},
        "classes": [ClassScores(label="ant", num_examples=7, precision=0.5, recall=0.25, f1=0.333)],
        "confusion": Confusion(labels=["ant"], said=["ant", "(no label)"], counts=[[3, 4]]),
        "num_examples": {"vqa": 30, "caption": 12345},
        "dataset": {"num_images": 77, "examples": {"train": {"vqa": 1, "caption": 2}, "test": {"vqa": 3}}},
        "curves": {"loss": [(0, 3.0), (10, 1.0), (20, 0.5)], "constant": [(5, 1.0)], "empty": []},
        "provenance": {"model_digest": "ab" * 32},
    }
    return Report(**(fields | changes))


def make_item(**changes: Any) -> GalleryItem:
    fields: dict[str, Any] = {
        "example_id": "e1",
        "image": PNG,
        "media_type": "image/png",
        "task": "vqa",
        "prompt": "what colour is it?",
        "prediction": "red",
        "control_prediction": "blue",
        "references": ("red", "dark red"),
        "score": 1.0,
        "group": "best",
    }
    return GalleryItem(**(fields | changes))


def make_against(**changes: Any) -> Against:
    fields: dict[str, Any] = {
        "champion_digest": "cd" * 32,
        "verdict": "The champion stays",
        "reasons": ["not surely above"],
        "primary_metric": "vqa_accuracy",
        "confidence": 0.9,
        "metrics": {"vqa_accuracy": 0.777, "cider_d": 1.5, "bleu_4": 0.444},
        "intervals": {"vqa_accuracy": Range(low=0.701, high=0.822)},
        "differences": {
            "vqa_accuracy": Difference(0.024, Range(low=-0.013, high=0.055)),
            "cider_d": Difference(-0.7, Range(low=-0.9, high=-0.5)),
            "bleu_4": Difference(0.36, None),
        },
    }
    return Against(**(fields | changes))


class Page(HTMLParser):
    """Start tags with their attributes, and whether every tag was closed in order."""

    VOID = frozenset({"meta", "img", "br", "line", "path", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_every_metric_stands_beside_its_control() -> None:
    html = render_report(make_report(), [make_item()])
    for key, name in METRIC_NAMES.items():
        assert name in html
        assert key in html
    for figure in ("80.1\u202f%", "20.1\u202f%", "+60.0 points (4.0\u00d7)", "0.803", "0.123", "+0.023 (1.2\u00d7)"):
        assert figure in html


def test_everything_of_the_report_is_on_the_page() -> None:
    html = render_report(make_report(), [make_item()])
    for text in (
        "71.0\u202f%\u201389.0\u202f%",
        "ant",
        "(no label)",
        "0.333",
        "digits",
        "Question type",
        "count",
        "12\u202f345",
        "77",
        "ab" * 32,
        "loss",
        "constant",
    ):
        assert text in html
    assert len(Page(html).of("svg")) == 2


def test_the_champion_stands_beside_the_metrics_that_it_has_with_the_difference() -> None:
    html = render_report(make_report(), [make_item()], make_against())
    headline = html.split("<article")[1].split("</article>")[0]
    for text in ("77.7\u202f%", "70.1\u202f%\u201382.2\u202f%", "+2.4 points", "\u22121.3 to +5.5"):
        assert text in headline and text in html.split('id="all-metrics"')[1]
    assert "90 % confidence" in html and "cdcdcdcdcdcd\u2026" in html
    assert re.search(r'"margin unsure">\+2\.4 points', html), "an interval around zero is no gain"
    assert re.search(r'"margin bad">\u22120\.700', html)
    assert html.index("The champion stays") < html.index("not surely above") < html.index('id="figures"')


def test_a_page_without_a_champion_says_nothing_of_one() -> None:
    assert "hampion" not in render_report(make_report(), [make_item()])


def test_what_the_champion_answered_stands_beside_what_changed() -> None:
    item = make_item(group="worse", champion_prediction="green", champion_score=1.0, score=0.25)
    html = render_report(make_report(), [item, make_item()], make_against())
    assert html.index("Worse than the champion") < html.index("green") < html.index(">Best<")
    assert "champion 1.00 \u2192 0.25" in html


def test_a_page_without_a_gallery_shows_nothing_of_a_single_example_and_says_so() -> None:
    html = render_report(make_report(), None, make_against())
    assert "left out of this copy" in html and "data:image" not in html and "No examples were kept" not in html


def test_model_text_is_escaped_wherever_it_stands() -> None:
    item = make_item(
        champion_prediction=HOSTILE,
        champion_score=0.5,
        prediction=HOSTILE,
        control_prediction=HOSTILE,
        prompt=HOSTILE,
        references=(HOSTILE,),
        task=HOSTILE,
        example_id=HOSTILE,
    )
    report = make_report(
        model_name=HOSTILE,
        provenance={HOSTILE: HOSTILE},
        dataset={HOSTILE: HOSTILE, "table": {HOSTILE: {HOSTILE: HOSTILE}}},
        curves={HOSTILE: [(0, 1.0)]},
        metrics={HOSTILE: 1.0},
        slices=[Slice(name=HOSTILE, value=HOSTILE, num_examples=1, metrics={HOSTILE: 1.0}, control={})],
    )
    against = make_against(
        champion_digest=HOSTILE,
        verdict=HOSTILE,
        reasons=[HOSTILE],
        primary_metric=HOSTILE,
        metrics={HOSTILE: 1.0},
        intervals={HOSTILE: Range(low=0, high=1)},
        differences={HOSTILE: Difference(0.0, Range(low=0, high=1))},
    )
    page = Page(render_report(report, [item], against))
    assert page.of("script") == []
    assert [image["src"].startswith("data:image/png;base64,") for image in page.of("img") if image["src"]] == [True]


def test_the_page_loads_nothing_from_outside() -> None:
    html = render_report(make_report(), [make_item()], make_against())
    page = Page(html)
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert links
    assert all(link is not None and link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?://|url\(|@import", html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed"})


def test_the_page_can_be_read_without_eyes_or_mouse() -> None:
    items = [make_item(), make_item(group="worst", prediction=" "), make_item(group="better", champion_prediction="")]
    page = Page(render_report(make_report(), items, make_against()))
    assert page.open == []
    assert {tag for tag, _ in page.tags} >= {"header", "nav", "main", "footer", "h1"}
    assert all(image.get("alt") for image in page.of("img"))
    assert all(header.get("scope") for header in page.of("th"))
    assert all(picture.get("role") == "img" and picture.get("aria-label") for picture in page.of("svg"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"] for link in page.of("a")} <= {f"#{anchor}" for anchor in ids}
    assert {attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes} <= ids


def test_a_model_that_does_not_look_is_told_so() -> None:
    blind = make_report(metrics={"vqa_accuracy": 0.3}, control={"vqa_accuracy": 0.3})
    assert "no better than without its own picture" in render_report(blind, [])
    assert "no better than without its own picture" not in render_report(make_report(), [])


def test_an_almost_empty_report_still_renders() -> None:
    bare = make_report(metrics={}, control={}, slices=[], num_examples={}, dataset={}, curves={}, provenance={})
    assert "No examples were kept" in render_report(bare, [])


def test_equal_reports_are_equal_bytes() -> None:
    report = make_report()
    backwards = make_report(metrics=dict(reversed(report.metrics.items())))
    assert report_json(backwards) == report_json(report)
    assert render_report(report, [make_item()]) == render_report(report, [make_item()])


def test_report_json_reads_back_as_the_same_report() -> None:
    assert Report.model_validate_json(report_json(make_report())) == make_report()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_absent(value: float) -> None:
    report = make_report(
        metrics={"vqa_accuracy": 0.5, "cider_d": value},
        control={"cider_d": value},
        dataset={"mean": value, "nested": {"mean": value, "num_images": 1}, "list": [1.0, value]},
        curves={"loss": [(0, value), (1, 2.0)]},
    )
    written = json.loads(report_json(report))
    assert written["metrics"] == {"vqa_accuracy": 0.5}
    assert written["control"] == {}
    assert written["dataset"] == {"nested": {"num_images": 1}, "list": [1.0]}
    assert written["curves"] == {"loss": [[1, 2.0]]}


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="metric_"):
        make_report(metric_={})


def test_a_picture_of_another_media_type_is_named() -> None:
    with pytest.raises(DataError, match="text/html"):
        render_report(make_report(), [make_item(media_type="text/html")])
