"""Texts that earlier evaluations of the same model hold. Their outputs are the cache: nothing is stored twice, and what
`forget` erases, `gc` keeps and `verify` checks is what it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from infra import log
from infra.outputs import Manifest, OutputRequest, manifest_key, read_manifest
from infra.workspace import Workspace
from training.answering import prompt_of
from training.config import TrainConfig
from training.generation import GENERATION_VERSION, Asked, GenerationConfig

FACT = "generation"
"""Of an `evaluate` output: what made its texts besides the model and the features."""


def told(config: GenerationConfig) -> dict[str, Any]:
    """The fact's value. It has a version of its own: a new metric is a new version of the step, and generates
    nothing."""
    return {"version": GENERATION_VERSION, **config.model_dump(mode="json")}


def earlier_texts(
    asked: Collection[Asked],
    generation: GenerationConfig,
    train_config: TrainConfig,
    request: OutputRequest,
    workspace: Workspace,
) -> dict[Asked, str]:
    """Of what is asked, the texts of outputs with the request's model and features and this configuration. Raises
    IntegrityError where such an output is damaged."""
    found: dict[Asked, str] = {}
    missing = set(asked)
    for evaluation in _evaluations(request, workspace):
        if not missing:
            break
        if evaluation.facts.get(FACT) == told(generation):
            texts = {one: text for one, text in _texts(evaluation, train_config, workspace) if one in missing}
            found |= texts
            missing -= texts.keys()
    return found


def _evaluations(request: OutputRequest, workspace: Workspace) -> Iterator[Manifest]:
    """Of the same model and features, newest first."""
    for entry in reversed(log.entries(workspace.store, request.step, request.inputs["model_digest"])):
        evaluation = read_manifest(workspace.store, manifest_key(request.step, entry["fingerprint"]))
        if evaluation is not None and all(
            evaluation.inputs[name] == request.inputs[name] for name in ("model_digest", "encoder_key")
        ):
            yield evaluation


def _texts(evaluation: Manifest, train_config: TrainConfig, workspace: Workspace) -> Iterator[tuple[Asked, str]]:
    import pyarrow.parquet as pq

    columns = ["task", "prompt", "image_id", "prediction", "control_image_id", "control_prediction"]
    for part in evaluation.parts_of("predictions"):
        table = pq.read_table(workspace.cache.path(evaluation.step, part), columns=columns)
        for task, prompt, image_id, text, other_id, other_text in zip(
            *(c.to_pylist() for c in table.columns), strict=True
        ):
            asked = prompt_of(train_config, task, prompt)
            yield Asked(image_id, asked), text
            yield Asked(other_id, asked), other_text
