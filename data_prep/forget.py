"""Erasing images from the outputs of ingest and featurize. Everything else of these outputs stays usable."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from data_prep.drafting import draft_of, rules_in
from data_prep.feature_parts import STEP as FEATURIZE
from data_prep.feature_parts import FeatureFile, FeatureWriter
from data_prep.forgotten import forgotten_input
from data_prep.keeping import keep_claimed
from data_prep.known_rows import KnownRows, merged, read_ranges
from data_prep.reuse import Encoded, encoded_parts
from data_prep.shards import STEP as INGEST
from data_prep.shards import shards_of
from infra import log
from infra.disk import scratch_folder
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output, manifest_key
from infra.part_cache import PartCache
from infra.store import Store


def forget_in_dataset(dataset: Manifest, image_ids: Collection[str], store: Store, cache: PartCache) -> bool:
    """Take a dataset back that shows one of the images. Where it is the newest of its recipe, its successor without
    them is committed first, under the fingerprint that the recipe's next run asks for. False where it shows none."""
    if not any(_holds(part, image_ids, INGEST, cache) for part in dataset.parts_of("image_index")):
        return False
    newest = log.newest(store, INGEST, dataset.name)
    if newest is not None and newest["fingerprint"] == dataset.fingerprint:
        inputs = {**dataset.inputs, **forgotten_input(store)}
        request = OutputRequest(INGEST, dataset.step_version, dataset.name, dataset.config, inputs)
        ensure_output(store, request, lambda attempt: _without(dataset, image_ids, attempt, cache), {})
    store.delete(manifest_key(INGEST, dataset.fingerprint))
    return True


def _without(dataset: Manifest, image_ids: Collection[str], attempt: Attempt, cache: PartCache) -> Draft:
    ranges = read_ranges(dataset.parts_of("files"), cache)
    known = KnownRows(shards_of(dataset.parts), ranges, cache, num_settled=0)
    known.claim_all_but(image_ids)
    kept, renamed = keep_claimed(known, [], attempt, cache)
    return draft_of(kept, merged([*known.claims(renamed)]), rules_in(dataset.config), attempt, cache)


def forget_in_features(features: Manifest, image_ids: Collection[str], store: Store, cache: PartCache) -> bool:
    """Write the feature parts that hold one of the images again, without them, and the manifest with them. The output
    stays what later ones take features from. False where it holds none."""
    held = [e for e in encoded_parts(features) if _holds(e.index, image_ids, FEATURIZE, cache)]
    if not held:
        return False
    gone = {part.digest for encoded in held for part in (encoded.features, encoded.index)}
    parts = [part for part in features.parts if part.digest not in gone]
    for encoded in held:
        parts += _rewritten(encoded, image_ids, store, cache)
    counts = {"rows_out": len(_ids_in(parts, cache))}
    draft = features.draft.model_copy(update={"parts": parts, "counts": features.counts | counts})
    changed = Manifest(**{name: getattr(features, name) for name in Manifest.model_fields} | {"draft": draft})
    store.write(manifest_key(FEATURIZE, features.fingerprint), changed.model_dump_json(indent=1).encode())
    return True


def _rewritten(encoded: Encoded, image_ids: Collection[str], store: Store, cache: PartCache) -> tuple[Part, ...]:
    """The feature part and its index part without the images; nothing where no row is left."""
    import numpy as np

    facts = dict(encoded.features.facts)
    patches, width = facts.pop("num_patches"), facts.pop("vision_width")
    rows = _rows(encoded.index, cache)
    kept = [number for number, row in enumerate(rows) if row["image_id"] not in image_ids]
    if not kept:
        return ()
    found = FeatureFile(cache.path(FEATURIZE, encoded.features))
    values = np.empty(found.row_bytes, dtype=np.uint8)
    with scratch_folder("forget") as folder:
        writer = FeatureWriter(folder, patches, width)
        for number in kept:
            found.read_into(number, values)
            features_1PV = values.view(np.float16).reshape(1, patches, width)
            writer.write([rows[number]["image_id"]], [rows[number]["view"]], features_1PV)
        return writer.upload(store, {**facts, "complete": False})


def _ids_in(parts: Collection[Part], cache: PartCache) -> set[str]:
    return {row["image_id"] for part in parts if part.kind == "feature_index" for row in _rows(part, cache)}


def _holds(part: Part, image_ids: Collection[str], step: str, cache: PartCache) -> bool:
    return any(row["image_id"] in image_ids for row in _rows(part, cache, step))


def _rows(part: Part, cache: PartCache, step: str = FEATURIZE) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = pq.read_table(cache.path(step, part)).to_pylist()
    return found


def names_images(part: Part, image_ids: Collection[str], step: str, cache: PartCache) -> bool:
    """Whether a part of any step is a table that names one of the images."""
    return any(row.get(column) in image_ids for row in _rows(part, cache, step) for column in _IMAGE_COLUMNS)


_IMAGE_COLUMNS = ("image_id", "control_image_id")
