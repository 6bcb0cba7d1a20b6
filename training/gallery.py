"""Pictures for the report: the best, the worst and a seeded selection of predictions."""

import io
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from data_prep.dataset import Example, images_by_id
from data_prep.images import decode
from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.evaluation_config import EvaluationConfig
from training.report_page import GalleryItem
from training.scoring import Scores, headline

MAX_THUMBNAIL_PX = 384
Group = Literal["best", "worst", "sample"]


def gallery(
    examples: Sequence[Example],
    rows: Sequence[Mapping[str, Any]],
    scores: Scores,
    dataset: Manifest,
    cache: PartCache,
    config: EvaluationConfig,
) -> list[GalleryItem]:
    """Items of all groups; within a group the tasks take turns, and no image comes twice. `rows` are predictions."""
    row_of = {row["example_id"]: row for row in rows}
    count = config.gallery_examples
    shuffled = list(examples)
    random.Random(config.control_seed).shuffle(shuffled)
    by_score = sorted(shuffled, key=lambda example: headline(scores[example.example_id]))
    chosen: list[tuple[Group, Example]] = []
    chosen += [("best", example) for example in _taking_turns(by_score[::-1], count)]
    chosen += [("worst", example) for example in _taking_turns(by_score, count)]
    chosen += [("sample", example) for example in _taking_turns(shuffled, count)]
    images = images_by_id(dataset, {example.image_id for _, example in chosen}, cache)
    return [
        GalleryItem(
            example_id=example.example_id,
            image=_thumbnail(images[example.image_id]),
            media_type="image/png",
            task=example.task,
            prompt=example.prompt,
            prediction=row_of[example.example_id]["prediction"],
            control_prediction=row_of[example.example_id]["control_prediction"],
            references=tuple(row_of[example.example_id]["references"]),
            score=headline(scores[example.example_id]),
            group=group,
        )
        for group, example in chosen
    ]


def _taking_turns(ordered: Sequence[Example], count: int) -> list[Example]:
    """The first `count`, one task after the other, each image once."""
    queues = {task: [e for e in ordered if e.task == task] for task in sorted({e.task for e in ordered})}
    taken: list[Example] = []
    seen: set[str] = set()
    while len(taken) < count and any(queues.values()):
        for queue in queues.values():
            while queue and queue[0].image_id in seen:
                queue.pop(0)
            if queue and len(taken) < count:
                seen.add(queue[0].image_id)
                taken.append(queue.pop(0))
    return taken


def _thumbnail(data: bytes) -> bytes:
    """PNG of bounded size: source bytes may be of a format that browsers do not show."""
    image = decode(data)
    image.thumbnail((MAX_THUMBNAIL_PX, MAX_THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
