"""What a model replied, kept beside its evaluation. Earlier outputs are the cache: a second evaluation, a new metric or
a grown test split asks only what was never asked; and `forget`, `gc` and `verify` need to know of no other place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra import log
from infra.outputs import Manifest, OutputRequest, manifest_key, read_manifest
from infra.workspace import Workspace
from training.asking import Asked, Reply
from training.generation import GenerationConfig

REPLIES_VERSION = 2
"""Raised by hand whenever replies change for what is asked alike, and the version of `evaluate` with it: replies of
earlier evaluations are then not reused. It is not that version: a new metric asks nothing."""
FACT = "generation"
"""Of an `evaluate` output: what made its replies besides the model and the features."""
KIND = "replies"


def told(config: GenerationConfig) -> dict[str, Any]:
    """The fact's value."""
    return {"version": REPLIES_VERSION, **config.model_dump(mode="json")}


def write_replies(replies: Mapping[Asked, Reply], path: Path) -> None:
    """Sorted: equal replies are equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.schemas import replies_schema

    rows = [{**one._asdict(), **replies[one]._asdict()} for one in sorted(replies)]
    schema = replies_schema(few_shot=any(one.shots for one in replies))
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


def earlier_replies(
    asked: Collection[Asked], generation: GenerationConfig, request: OutputRequest, workspace: Workspace
) -> dict[Asked, Reply]:
    """Of what is asked, the replies in outputs with the request's model and features; texts only where they were
    generated alike. Raises IntegrityError where such an output is damaged."""
    found: dict[Asked, Reply] = {}
    missing = set(asked)
    for evaluation in _evaluations(request, workspace):
        if not missing:
            break
        alike = evaluation.facts[FACT] == told(generation)
        for one, reply in _replies(evaluation, workspace):
            if one in missing and (alike or one.kind != "text"):
                found[one] = reply
                missing.remove(one)
    return found


def _evaluations(request: OutputRequest, workspace: Workspace) -> Iterator[Manifest]:
    """Of the same model and features, asked as today, newest first."""
    for entry in reversed(log.entries(workspace.store, request.step, request.inputs["model_digest"])):
        evaluation = read_manifest(workspace.store, manifest_key(request.step, entry["fingerprint"]))
        if evaluation is None or evaluation.facts.get(FACT, {}).get("version") != REPLIES_VERSION:
            continue
        if all(evaluation.inputs[name] == request.inputs[name] for name in ("model_digest", "encoder_key")):
            yield evaluation


def _replies(evaluation: Manifest, workspace: Workspace) -> Iterator[tuple[Asked, Reply]]:
    import pyarrow.parquet as pq

    for part in evaluation.parts_of(KIND):
        table = pq.read_table(workspace.cache.path(evaluation.step, part))
        columns = {name: table[name].to_pylist() for name in table.column_names}
        columns.setdefault("shots", [""] * len(table))  # of an evaluation that showed none
        asked = zip(*(columns[name] for name in Asked._fields), strict=True)
        replies = zip(*(columns[name] for name in Reply._fields), strict=True)
        for one, reply in zip(asked, replies, strict=True):
            yield Asked(*one), Reply.of(reply)
