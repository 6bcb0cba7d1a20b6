"""The report's page as `register` shows it: with the champion in it. An evaluation does not know who serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.against import Against
from training.evaluation_config import EvaluationConfig
from training.gallery import changed, chosen, with_pictures
from training.report import REPORT_RECORD, Report
from training.report_page import render_report


@dataclass(frozen=True)
class Pages:
    """What `register` shows, here and in MLflow."""

    without_pictures: str
    """For MLflow: figures, and nothing of a single example, since no image can be erased there."""
    whole: str | None
    """None where no champion was met: the evaluation's own page stands."""
    image_ids: list[str]
    """Of the whole page's pictures."""


def pages_without_champion(evaluation: Manifest, cache: PartCache) -> Pages:
    return Pages(render_report(_report(evaluation, cache), None), None, [])


def pages_with_champion(
    evaluation: Manifest, champion_evaluation: Manifest, against: Against, dataset: Manifest, cache: PartCache
) -> Pages:
    """They follow from the arguments alone, to the byte."""
    config = EvaluationConfig.model_validate(evaluation.config)
    report = _report(evaluation, cache)
    rows, champion_rows = (_predictions(each, cache) for each in (evaluation, champion_evaluation))
    shown = [*changed(rows, champion_rows, against.primary_metric, config), *chosen(rows, config)]
    return Pages(
        without_pictures=render_report(report, None, against),
        whole=render_report(report, with_pictures(shown, dataset, cache), against),
        image_ids=sorted({each.row["image_id"] for each in shown}),
    )


def _report(evaluation: Manifest, cache: PartCache) -> Report:
    part = next(part for part in evaluation.parts if part.name == REPORT_RECORD)
    return Report.model_validate_json(cache.path(evaluation.step, part).read_bytes())


def _predictions(evaluation: Manifest, cache: PartCache) -> list[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    (part,) = evaluation.parts_of("predictions")
    rows: list[Mapping[str, Any]] = pq.read_table(cache.path(evaluation.step, part)).to_pylist()
    return rows
