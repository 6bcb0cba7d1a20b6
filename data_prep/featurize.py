"""The `featurize` step: each image through the frozen tower once, shard by shard, on Ray actors."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.tower import ENCODE_VERSION, VIEW, FeatureConfig, Tower, encoder_key
from infra import log
from infra.errors import DataError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, read_manifest, upload_part
from infra.part_cache import PartCache
from infra.ray import run_units
from infra.store import Store, open_store
from infra.workspace import Workspace

STEP = "featurize"


def featurize_request(config: FeatureConfig, name: str, dataset: Manifest, tower_digest: str) -> OutputRequest:
    key = encoder_key(tower_digest, config)
    inputs = {"dataset_digest": dataset.identity["dataset_digest"], "tower_digest": tower_digest}
    return OutputRequest(STEP, ENCODE_VERSION, name, config.model_dump(mode="json"), inputs, also_logged_as=key)


def featurize(
    config: FeatureConfig, dataset: Manifest, tower_folder: Path, attempt: Attempt, workspace: Workspace
) -> Draft:
    """Encode every image of the dataset that this tower has not seen. An actor's death costs one shard."""
    key = attempt.request.also_logged_as or ""
    image_ids = {part.digest: _ids_of("ingest", part, workspace.cache) for part in dataset.parts_of("images")}
    wanted = {image_id for ids in image_ids.values() for image_id in ids}
    reused, known = _earlier_parts(key, wanted, attempt.store, workspace.cache)
    parts: dict[str, Part] = {part.digest: part for part in reused}
    units: dict[str, tuple[dict[str, Any], list[str]]] = {}
    num_encoded = 0
    for image_part in dataset.parts_of("images"):
        missing = [image_id for image_id in image_ids[image_part.digest] if image_id not in known]
        noted = attempt.noted(image_part.digest)
        part = Part.model_validate(noted) if noted is not None else None
        if missing and part is not None and attempt.holds(part):
            parts[part.digest] = part
            num_encoded += part.num_rows
        elif missing:
            units[image_part.digest] = (image_part.model_dump(), missing)
    progress = workspace.progress
    progress.start("featurize", len(wanted), "images", done=len(wanted) - sum(len(ids) for _, ids in units.values()))

    def keep(unit: str, result: dict[str, Any]) -> None:
        nonlocal num_encoded
        part = Part.model_validate(result)
        attempt.note(unit, result)
        parts[part.digest] = part
        num_encoded += part.num_rows
        progress.advance("featurize", part.num_rows)

    resources = workspace.profile.featurize
    arguments = {
        "store_uri": attempt.store.uri,
        "cache_dir": str(workspace.cache.folder),
        "tower_folder": str(tower_folder),
        "config": config.model_dump(mode="json"),
        "batch_size": resources.rows_per_batch,
        "threads": resources.threads_per_actor,
    }
    if units:
        run_units(Encoder, arguments, units, resources, keep)
    progress.finish("featurize")
    ordered = sorted(parts.values(), key=lambda part: part.digest)
    shape = ordered[0].facts
    return Draft(
        parts=ordered,
        identity={"encoder_key": key, "dataset_digest": dataset.identity["dataset_digest"]},
        counts={"rows_out": len(wanted), "encoded": num_encoded, "reused": len(wanted) - num_encoded},
        facts={"num_patches": shape["num_patches"], "vision_width": shape["vision_width"]},
    )


class Encoder:
    """Lives in a Ray actor: one image part in, one committed feature part out."""

    def __init__(
        self,
        store_uri: str,
        cache_dir: str,
        tower_folder: str,
        config: Mapping[str, Any],
        batch_size: int,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.store = open_store(store_uri)
        self.cache = PartCache(self.store, Path(cache_dir))
        self.config = FeatureConfig.model_validate(config)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tower = Tower(Path(tower_folder), self.config, batch_size, device)

    def run(self, unit: tuple[dict[str, Any], list[str]]) -> dict[str, Any]:
        """Encode the listed images of an image part and upload their features. Returns the new part."""
        from data_prep.dataset import read_images

        image_part, image_ids = unit
        wanted = set(image_ids)
        rows = [(i, data) for i, data in read_images(Part.model_validate(image_part), self.cache) if i in wanted]
        patches_BPV = self.tower.encode([data for _, data in rows])
        return _write_part([i for i, _ in rows], patches_BPV, self.store).model_dump()


def _write_part(image_ids: list[str], patches_BPV: Any, store: Store) -> Part:
    """Write, close and upload one feature part. Raises DataError naming an image with non-finite features."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.schemas import features_schema

    finite_B = np.isfinite(patches_BPV).all(axis=(1, 2))
    if not finite_B.all():
        row = int(np.argmin(finite_B))
        raise DataError(
            f"image {image_ids[row][:12]}… has non-finite features; expected all finite in float16. "
            "Take an earlier layer (featurize.layer) or a wider dtype (featurize.dtype: float32), or remove the image."
        )
    _, num_patches, vision_width = patches_BPV.shape
    schema = features_schema(num_patches, vision_width, VIEW)
    width_bytes = num_patches * vision_width * 2
    buffer = pa.py_buffer(np.ascontiguousarray(patches_BPV).tobytes())
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width_bytes), len(image_ids), [None, buffer])
    table = pa.table([image_ids, [VIEW] * len(image_ids), column], schema=schema)
    with tempfile.TemporaryDirectory(prefix="frostline-features-") as folder:
        path = Path(folder) / "features.parquet"
        pq.write_table(table, path, compression="none", use_dictionary=False)
        facts = {"num_patches": num_patches, "vision_width": vision_width}
        return upload_part(store, STEP, path, "features", len(image_ids), facts=facts)


def _earlier_parts(key: str, wanted: set[str], store: Store, cache: PartCache) -> tuple[list[Part], set[str]]:
    """Feature parts under this encoder key that hold wanted images, and the images they hold."""
    parts: dict[str, Part] = {}
    known: set[str] = set()
    for entry in log.entries(store, STEP, key):
        manifest = read_manifest(store, f"{STEP}/{entry['fingerprint']}/manifest.json")
        for part in manifest.parts if manifest else []:
            if part.digest in parts:
                continue
            ids = wanted.intersection(_ids_of(STEP, part, cache))
            if ids - known:
                parts[part.digest] = part
                known |= ids
    return list(parts.values()), known


def _ids_of(step: str, part: Part, cache: PartCache) -> Iterable[str]:
    import pyarrow.parquet as pq

    ids: list[str] = pq.read_table(cache.path(step, part), columns=["image_id"]).column(0).to_pylist()
    return ids
