"""The evaluate step on `trained_world`, with its actors' work done in this process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.outputs import Manifest, ensure_output
from infra.workspace import Workspace
from training import evaluate as step
from training.asking import Asked
from training.evaluate import EvaluationInputs, evaluate, evaluate_request
from training.evaluation_config import EvaluationConfig

CONFIG = EvaluationConfig(max_new_tokens=5, gallery_examples=2)


def units_here(monkeypatch: pytest.MonkeyPatch) -> list[list[Asked]]:
    """Answer in this process instead of in actors; the list holds the units that were answered."""
    answered: list[list[Asked]] = []

    def here(worker: type, arguments: Mapping[str, Any], units: Mapping[str, Any], _: object, keep: Any) -> None:
        answerer = worker(**arguments)
        for name, unit in units.items():
            answered.append(unit)
            keep(name, answerer.run(unit))

    monkeypatch.setattr(step, "run_units", here)
    return answered


def evaluated(world: Any, workspace: Workspace, config: EvaluationConfig = CONFIG) -> tuple[Manifest, bool]:
    inputs = EvaluationInputs(
        "tiny", world.train, world.dataset, world.features, world.vision_tower, world.language_model_folder
    )
    request = request_of(world, config)
    return ensure_output(workspace.store, request, lambda attempt: evaluate(config, inputs, attempt, workspace), {})


def request_of(world: Any, config: EvaluationConfig = CONFIG) -> Any:
    return evaluate_request(config, "tiny", world.train, world.dataset, world.features)


def file_of(manifest: Manifest, name: str, workspace: Workspace) -> Path:
    (part,) = [part for part in manifest.parts if part.name == f"report/{name}"]
    return workspace.cache.path("evaluate", part)


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Texts and scores to the bit; probabilities within 1e-5, whose last bits follow the batch."""
    texts = [[{**row, "confidence": None} for row in rows] for rows in (found, expected)]
    assert texts[0] == texts[1]
    confidences = [[row["confidence"] for row in rows] for rows in (found, expected)]
    assert confidences[0] == pytest.approx(confidences[1], abs=1e-5)


def rows_of(manifest: Manifest, workspace: Workspace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file_of(manifest, "predictions.parquet", workspace)).to_pylist()
    return rows
