"""Datasets and features put into a store directly, with the parts that the steps write."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.feature_parts import FeatureWriter
from data_prep.schemas import images_schema
from data_prep.shard_writer import write_rows
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


def store_images(store: Store, shards: Sequence[Sequence[bytes]], reencode_digest: str = "") -> Manifest:
    """A dataset of these pictures: an image part and its index part per shard."""
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, pictures in enumerate(shards):
            image_ids = [digest_bytes(picture) for picture in pictures]
            empty = dict.fromkeys(images_schema().names)
            rows = [{**empty, "image_id": i, "bytes": data} for i, data in zip(image_ids, pictures, strict=True)]
            facts = {"shard": f"{number:05d}"}
            path = write_rows(pa.Table.from_pylist(rows, images_schema()), "images", Path(folder))
            images = upload_part(store, "ingest", path, "images", len(rows), facts=facts)
            pq.write_table(pa.table({"image_id": image_ids}), path)
            facts = {**facts, "images": images.digest}
            parts += [images, upload_part(store, "ingest", path, "image_index", len(rows), facts=facts)]
    identity = {"dataset_digest": digest_json([part.digest for part in parts]), "reencode_digest": reencode_digest}
    return made_by("ingest", parts, identity)


def made_by(step: str, parts: list[Part], identity: dict[str, str]) -> Manifest:
    request = OutputRequest(step, 1, "demo", {}, identity)
    return Manifest(
        step=step,
        step_version=1,
        name="demo",
        fingerprint=request.fingerprint,
        config={},
        inputs=identity,
        draft=Draft(parts=parts, identity=identity),
        record=record_of(0.0, {}),
    )
