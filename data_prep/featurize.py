"""The `featurize` step: each image through the frozen tower once, shard by shard, on Ray actors."""

from typing import Any

from data_prep.encoder import Encoder, Unit
from data_prep.feature_parts import STEP
from data_prep.images import DECODE_VERSION
from data_prep.pins import Pin
from data_prep.reuse import find_encoded
from data_prep.tower import ENCODE_VERSION, FeatureConfig, encoder_key
from data_prep.views import view_names
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part
from infra.ray_pool import run_units
from infra.workspace import Workspace


def featurize_request(config: FeatureConfig, name: str, dataset: Manifest, tower_digest: str) -> OutputRequest:
    reencode_digest = dataset.identity.get("reencode_digest", "")
    inputs = {
        "dataset_digest": dataset.identity["dataset_digest"],
        "tower_digest": tower_digest,
        "decode_version": str(DECODE_VERSION),
        "reencode_digest": reencode_digest,
    }
    key = encoder_key(tower_digest, config, reencode_digest)
    return OutputRequest(STEP, ENCODE_VERSION, name, config.model_dump(mode="json"), inputs, also_logged_as=key)


def featurize(config: FeatureConfig, dataset: Manifest, tower: Pin, attempt: Attempt, workspace: Workspace) -> Draft:
    """Encode every image of the dataset that this tower has not seen. An actor's death costs one shard."""
    key = attempt.request.also_logged_as or ""
    found, units = find_encoded(key, dataset, attempt.store, workspace.cache)
    parts = {part.digest: part for encoded in found for part in (encoded.features, encoded.index)}
    num_images = sum(part.num_rows for part in dataset.parts_of("images"))
    num_encoded = sum(unit.num_images for unit in units)
    waiting: dict[str, Unit] = {}
    for unit in units:
        noted = _noted(unit, attempt)
        parts |= {part.digest: part for part in noted}
        if not noted:
            waiting[unit.name] = unit
    progress = workspace.progress
    num_waiting = sum(unit.num_images for unit in waiting.values())
    progress.start("featurize", num_images, "images", done=num_images - num_waiting)

    def keep(name: str, result: list[dict[str, Any]]) -> None:
        attempt.note(name, {"parts": result})
        parts.update((part["digest"], Part.model_validate(part)) for part in result)
        progress.advance("featurize", waiting[name].num_images)

    if waiting:
        resources = workspace.profile.featurize
        arguments = {
            "store_uri": attempt.store.uri,
            "cache_dir": str(workspace.cache.folder),
            "tower": tower.model_dump(mode="json"),
            "config": config.model_dump(mode="json"),
            "batch_size": resources.rows_per_batch,
            "threads": resources.threads_per_actor,
        }
        run_units(Encoder, arguments, waiting, resources, keep)
    progress.finish("featurize")
    ordered = sorted(parts.values(), key=lambda part: part.digest)
    shape = next(part.facts for part in ordered if part.kind == "features")
    return Draft(
        parts=ordered,
        identity={"encoder_key": key, "dataset_digest": dataset.identity["dataset_digest"]},
        counts={"rows_out": num_images, "encoded": num_encoded, "reused": num_images - num_encoded},
        facts={
            "num_patches": shape["num_patches"],
            "vision_width": shape["vision_width"],
            "views": view_names(config.views),
        },
    )


def _noted(unit: Unit, attempt: Attempt) -> list[Part]:
    """The parts that an earlier attempt made of this unit; none where it did not, or they are gone."""
    noted = attempt.noted(unit.name)
    found = [Part.model_validate(part) for part in noted["parts"]] if noted else []
    return found if all(attempt.holds(part) for part in found) else []
