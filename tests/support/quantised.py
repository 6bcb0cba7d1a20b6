"""A registered model's int8 counterpart, made and answered as the command does, without engines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.schemas import predictions_schema
from infra.outputs import Manifest, ensure_output, upload_part
from infra.workspace import Workspace
from training.asking import Asked, prompt_of
from training.predictor import Predictor
from training.quantising.step import quantise, quantise_request
from training.version import packaged


def in_int8(world: Any, workspace: Workspace, folder: Path) -> Any:
    """The same world with an int8 model in the place of its own, and what that answers."""
    train, features, lm = world.parts.train, world.parts.features, world.parts.language_model.folder
    request = quantise_request("tiny-int8", train, features, "digest")
    made, _ = ensure_output(
        workspace.store, request, lambda attempt: quantise(train, features, lm, attempt, workspace), resources={}
    )
    parts = replace(world.parts, train=made, more_tags={"frostline.quantized_from": "models:/tiny/1"})
    package = packaged(folder / "package", "tiny-int8", parts, world.evaluation, workspace.cache)
    predictor = Predictor.load(package.folder, workspace.cache.folder)
    (part,) = world.evaluation.parts_of("predictions")
    rows = pq.read_table(workspace.cache.path("evaluate", part)).to_pylist()
    for number, row in enumerate(rows):
        asked = Asked(row["image_id"], prompt_of(package.card.training, row["task"], row["prompt"]))
        (row["prediction"],) = predictor._said(predictor.tower.encode([world.stored[number]]), [asked])
    pq.write_table(pa.Table.from_pylist(rows, predictions_schema()), folder / "predictions.parquet")
    answered = upload_part(workspace.store, "evaluate", folder / "predictions.parquet", "predictions", len(rows))
    record = [part for part in world.evaluation.parts if part.kind != "predictions"]
    identity = {"evaluation_digest": answered.digest, "model_digest": made.identity["model_digest"]}
    draft = world.evaluation.draft.model_copy(update={"parts": [*record, answered], "identity": identity})
    told = world.evaluation.model_dump(exclude={"digest"}) | {"draft": draft.model_dump(), "fingerprint": "9" * 64}
    return replace(world, parts=parts, evaluation=Manifest.model_validate(told))
