"""Pictures for the report: the best, the worst, a seeded selection, and what a champion answered otherwise."""

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.dataset import images_by_id
from data_prep.images import decode
from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.evaluation_config import EvaluationConfig
from training.report_page import GalleryItem, Group
from training.scoring import headline

MAX_THUMBNAIL_PX = 384
Row = Mapping[str, Any]
"""Of predictions; see `data_prep.schemas.predictions_schema`."""


@dataclass(frozen=True)
class Shown:
    """A prediction that the report shows, and why."""

    group: Group
    row: Row
    score: float
    champion_prediction: str | None = None
    champion_score: float | None = None


def chosen(rows: Sequence[Row], config: EvaluationConfig) -> list[Shown]:
    """The best, the worst and a selection; within a group the tasks take turns, and no image comes twice."""
    scores = {row["example_id"]: headline(dict(row["scores"])) for row in rows}
    shuffled = _shuffled(rows, config)
    by_score = sorted(shuffled, key=lambda row: scores[row["example_id"]])
    groups: list[tuple[Group, list[Row]]] = [("best", by_score[::-1]), ("worst", by_score), ("sample", shuffled)]
    return [
        Shown(group, row, scores[row["example_id"]])
        for group, ordered in groups
        for row in _taking_turns(ordered, config.gallery_examples)
    ]


def changed(rows: Sequence[Row], champion_rows: Sequence[Row], metric: str, config: EvaluationConfig) -> list[Shown]:
    """The examples whose `metric` rose most above the champion's, and those where it fell most. As many, and taking
    turns, as in the other groups."""
    new, old = (
        {row["example_id"]: row for row in each if metric in dict(row["scores"])} for each in (rows, champion_rows)
    )
    gain = {each: dict(new[each]["scores"])[metric] - dict(old[each]["scores"])[metric] for each in new if each in old}
    by_gain = sorted(
        (row for row in _shuffled(rows, config) if gain.get(row["example_id"])),
        key=lambda row: gain[row["example_id"]],
    )
    better = [row for row in reversed(by_gain) if gain[row["example_id"]] > 0]
    worse = [row for row in by_gain if gain[row["example_id"]] < 0]
    groups: list[tuple[Group, list[Row]]] = [("better", better), ("worse", worse)]
    return [
        Shown(
            group,
            row,
            dict(row["scores"])[metric],
            old[row["example_id"]]["prediction"],
            dict(old[row["example_id"]]["scores"])[metric],
        )
        for group, ordered in groups
        for row in _taking_turns(ordered, config.gallery_examples)
    ]


def with_pictures(shown: Sequence[Shown], dataset: Manifest, cache: PartCache) -> list[GalleryItem]:
    images = images_by_id(dataset, {each.row["image_id"] for each in shown}, cache)
    return [
        GalleryItem(
            example_id=each.row["example_id"],
            image=_thumbnail(images[each.row["image_id"]]),
            media_type="image/png",
            task=each.row["task"],
            prompt=each.row["prompt"],
            prediction=each.row["prediction"],
            control_prediction=each.row["control_prediction"],
            references=tuple(each.row["references"]),
            score=each.score,
            group=each.group,
            champion_prediction=each.champion_prediction,
            champion_score=each.champion_score,
        )
        for each in shown
    ]


def _shuffled(rows: Sequence[Row], config: EvaluationConfig) -> list[Row]:
    shuffled = list(rows)
    random.Random(config.control_seed).shuffle(shuffled)
    return shuffled


def _taking_turns(ordered: Sequence[Row], count: int) -> list[Row]:
    """The first `count`, one task after the other, each image once."""
    queues = {task: [r for r in ordered if r["task"] == task] for task in sorted({r["task"] for r in ordered})}
    taken: list[Row] = []
    seen: set[str] = set()
    while len(taken) < count and any(queues.values()):
        for queue in queues.values():
            while queue and queue[0]["image_id"] in seen:
                queue.pop(0)
            if queue and len(taken) < count:
                seen.add(queue[0]["image_id"])
                taken.append(queue.pop(0))
    return taken


def _thumbnail(data: bytes) -> bytes:
    """PNG of bounded size: source bytes may be of a format that browsers do not show."""
    image = decode(data)
    image.thumbnail((MAX_THUMBNAIL_PX, MAX_THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
