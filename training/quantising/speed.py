"""How large two models are and how long they take, side by side.

Shapes: B rows, P patches, V vision width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from data_prep.features import FeatureStore
from infra.outputs import Manifest
from infra.workspace import Workspace

if TYPE_CHECKING:
    from training.predictor import Predictor

BATCH_SIZES = (1, 8)
ROUNDS = 7


class Figures(BaseModel):
    """One model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    language_model_bytes: int
    """Its weights on disk."""
    folder_bytes: int
    """The package, with the language model where it is in there."""
    memory_bytes: int
    """Weights in memory: of the language model and all that was trained."""
    seconds: dict[int, float]
    """Per answer, by rows of a batch: medians of ROUNDS."""


class Row(NamedTuple):
    """A test example as the evaluation asked it."""

    image_id: str
    task: str
    prompt: str


def compared(
    packages: Mapping[str, Path], evaluation: Manifest, features: Manifest, workspace: Workspace
) -> dict[str, Figures]:
    """By name, of package folders that are asked the first test examples of one evaluation, from stored features."""
    import pyarrow.parquet as pq

    from training.predictor import Predictor

    (part,) = evaluation.parts_of("predictions")
    table = pq.read_table(workspace.cache.path(evaluation.step, part), columns=["example_id", *Row._fields])
    found = sorted(table.to_pylist(), key=lambda row: row["example_id"])[: max(BATCH_SIZES)]
    rows = [Row(*(one[name] for name in Row._fields)) for one in found]
    patches_BPV = FeatureStore(features, workspace.cache).gather([row.image_id for row in rows])
    threads = workspace.profile.evaluate.threads_per_actor
    predictors = {
        name: Predictor.load(folder, workspace.cache.folder, workspace.store, threads)
        for name, folder in packages.items()
    }
    return figures(predictors, rows, patches_BPV)


def figures(predictors: Mapping[str, Predictor], rows: Sequence[Row], patches_BPV: Any) -> dict[str, Figures]:
    """By name, of models that are asked the same rows. Sides are asked by turns: what else the machine does meets
    both."""
    from training.quantising.layers import weight_bytes

    seconds = {size: _seconds(predictors, rows[:size], patches_BPV[:size]) for size in BATCH_SIZES}
    return {
        name: Figures(
            language_model_bytes=_bytes_of(predictor.reader.language.folder.glob("*.safetensors")),
            folder_bytes=_bytes_of(predictor.package.files),
            memory_bytes=weight_bytes(predictor.reader.model),
            seconds={size: found[name] for size, found in seconds.items()},
        )
        for name, predictor in predictors.items()
    }


def _seconds(predictors: Mapping[str, Predictor], rows: Sequence[Row], patches_BPV: Any) -> dict[str, float]:
    asked = [row.task for row in rows], [row.prompt for row in rows], [row.image_id for row in rows]
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    for number in range(ROUNDS + 1):
        for name, predictor in predictors.items():
            started = time.perf_counter()
            predictor.answer_encoded(patches_BPV, *asked)
            if number:  # the first round warms up
                taken[name].append((time.perf_counter() - started) / len(rows))
    return {name: statistics.median(values) for name, values in taken.items()}


def _bytes_of(paths: Any) -> int:
    return sum(path.stat().st_size for path in paths)
