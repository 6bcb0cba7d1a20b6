"""What a model said of each test example, beside what its controls said, for `predictions.parquet`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.dataset import Example
from training.asking import Asked, Question, Reply, references_of
from training.confidence_scores import confidence_of
from training.controls import AllScored
from training.scoring import slice_values


def prediction_rows(
    examples: Sequence[Example],
    questions: Sequence[Question],
    replies: Mapping[Asked, Reply],
    found: AllScored,
) -> list[dict[str, Any]]:
    """What `predictions_schema` holds of each example, in their order."""
    own, swap, blind = (each.scores for each in found)
    asked = {question.example_id: question for question in questions}

    def row(example: Example) -> dict[str, Any]:
        question = asked[example.example_id]
        return {
            "example_id": example.example_id,
            "image_id": example.image_id,
            "task": example.task,
            "prompt": example.prompt,
            "references": references_of(example),
            "prediction": replies[question.own].said,
            "confidence": confidence_of(example.task, replies[question.own]),
            "control_prediction": replies[question.control].said,
            "control_image_id": question.control_image_id,
            "blind_prediction": replies[question.blind].said,
            "scores": sorted(own[example.example_id].items()),
            "control_scores": sorted(swap[example.example_id].items()),
            "blind_scores": sorted(blind[example.example_id].items()),
            "slices": sorted(slice_values(example).items()),
        }

    return [row(example) for example in examples]


def write_predictions(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.schemas import predictions_schema

    pq.write_table(pa.Table.from_pylist(list(rows), predictions_schema()), path, compression="zstd")
