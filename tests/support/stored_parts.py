"""Datasets and features put into a store directly, with the parts that the steps write."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from data_prep.feature_parts import FeatureWriter
from data_prep.schemas import IMAGE_INDEX_COLUMNS, images_schema
from data_prep.shard_writer import write_rows
from data_prep.shards import name_shard
from infra.digests import digest_bytes, digest_json
from infra.outputs import Draft, Manifest, OutputRequest, Part, upload_part
from infra.record import record_of
from infra.store import Store


def noise(number: int) -> bytes:
    """A PNG that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def store_features(store: Store, image_ids: Sequence[str], values_NPV: np.ndarray) -> list[Part]:
    """A feature part and its index part, of the images as they are."""
    with tempfile.TemporaryDirectory() as folder:
        writer = FeatureWriter(Path(folder), *values_NPV.shape[1:])
        writer.write(image_ids, ["original"] * len(image_ids), values_NPV)
        return list(writer.upload(store, {"views": ["original"], "image_part": "", "complete": False}))


def image_table(pictures: Sequence[bytes]) -> pa.Table:
    """By `images_schema`, as far as a reader of bytes needs it."""
    empty = dict.fromkeys(images_schema().names)
    rows = [{**empty, "image_id": digest_bytes(data), "bytes": data} for data in pictures]
    return pa.Table.from_pylist(rows, images_schema())


def example_row(image_id: str, task: str, prompt: str, targets: Sequence[str], **more: Any) -> dict[str, Any]:
    """A row of `examples`, of the train split unless told otherwise."""
    return {
        "example_id": digest_json([image_id, task, prompt, list(targets)]),
        "image_id": image_id,
        "task": task,
        "prompt": prompt,
        "targets": list(targets),
        "negatives": [],
        "numbers": [],
        "label": "",
        "split": "train",
        "source": "demo",
        "weight": 1.0,
        "attributes": [],
        **more,
    }


def store_shard(store: Store, folder: Path, **tables: pa.Table) -> list[Part]:
    """The parts of one dataset shard, each kind by its table; its images get their index."""
    if "images" in tables:
        tables["image_index"] = tables["images"].select(IMAGE_INDEX_COLUMNS)
    parts: dict[str, Part] = {}
    for kind, table in tables.items():
        parts[kind] = upload_part(store, "ingest", write_rows(table, kind, folder), kind, len(table))
    return list(name_shard(parts, ()).parts.values())


def store_images(store: Store, shards: Sequence[Sequence[bytes]], reencode_digest: str = "") -> Manifest:
    """A dataset of these pictures: an image part and its index part per shard."""
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as folder:
        for pictures in shards:
            parts += store_shard(store, Path(folder), images=image_table(pictures))
    identity = {"dataset_digest": digest_json([part.digest for part in parts]), "reencode_digest": reencode_digest}
    return made_by("ingest", parts, identity)


def made_by(step: str, parts: list[Part], identity: dict[str, str], facts: dict[str, Any] | None = None) -> Manifest:
    request = OutputRequest(step, 1, "demo", {}, identity)
    return Manifest(
        step=step,
        step_version=1,
        name="demo",
        fingerprint=request.fingerprint,
        config={},
        inputs=identity,
        draft=Draft(parts=parts, identity=identity, facts=facts or {}),
        record=record_of(0.0, {}),
    )
