"""From a trained model to a version in the registry, and the proof that the version answers as the evaluation did."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.dataset import images_by_id, read_examples
from data_prep.features import FeatureStore
from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig
from infra.disk import scratch_folder
from infra.errors import IntegrityError
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.record import git_commit
from infra.tracking import ModelVersion, Registry, listing_of, open_run, write_pyfunc
from infra.workspace import Workspace
from training.asking import Kind, kinds_of
from training.candidate import FILES_TAG
from training.config import TrainConfig
from training.evaluation_config import EvaluationConfig
from training.objectives.answer_space import AnswerSpace
from training.package import LANGUAGE_MODEL, SCRIPT, ModelCard, Package, write_package
from training.predictor import PACKAGE_DIGEST_TAG
from training.shots import Shot, few_shot_of
from training.smoke_test import HeldExample, HeldShot, Request, base64_of, in_fresh_process

CHECKED_PER_TASK = 3
MAX_FEATURE_DISTANCE = 0.05
"""Relative. Other batch sizes and devices give other low bits, another tower or processor other features altogether."""


@dataclass(frozen=True)
class VersionParts:
    """Where a version's parameters, frozen models and tags come from."""

    dataset: Manifest
    features: Manifest
    train: Manifest
    """Of an int8 model: its `quantise` output."""
    base: Manifest | None
    """The `base` output, where the recipe makes its own frozen models."""
    vision_tower: PretrainedRef
    language_model: PretrainedRef
    more_tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """A test example and what the evaluation answered."""

    example_id: str
    image_id: str
    task: str
    prompt: str
    prediction: str
    image: bytes


def ensure_version(
    registry: Registry, model_name: str, parts: VersionParts, evaluation: Manifest, workspace: Workspace
) -> ModelVersion:
    """The complete version of this model: found by its digest, or made now."""
    digest = parts.train.identity["model_digest"]
    found = registry.find_version(model_name, digest)
    if found is not None:
        return found
    (example, *_) = held_out(evaluation, parts.dataset, workspace.cache)
    with scratch_folder("version") as folder:
        package = packaged(folder / "package", model_name, parts, evaluation, workspace.cache)
        row = {"image": base64.b64encode(_grey_picture()).decode(), "prompt": example.prompt}
        write_pyfunc(folder / "model", package.folder, package.folder / SCRIPT, row)
        run = open_run(registry.uri, parts.train.name, parts.train.fingerprint, {})
        digests = {PACKAGE_DIGEST_TAG: package.digest, FILES_TAG: listing_of(folder / "model")}
        tags = {**_tags(parts, evaluation), **digests}
        version = registry.register_version(model_name, digest, run.run_id, folder / "model", tags)
        run.finish()
    return version


def packaged(folder: Path, model_name: str, parts: VersionParts, evaluation: Manifest, cache: PartCache) -> Package:
    """Fill an empty folder with all that a version is loaded from."""
    card = model_card(model_name, parts, evaluation, cache)
    (trainables,) = parts.train.parts_of("trainables")
    language_model = cache.folder_of(parts.train, LANGUAGE_MODEL) if card.quantization else None
    return write_package(folder, card, cache.path(parts.train.step, trainables), language_model)


def _grey_picture() -> bytes:
    """The picture of a version's input example: the registry holds no picture of the data, so none has to be forgotten
    there."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(buffer, format="PNG")
    return buffer.getvalue()


def model_card(model_name: str, parts: VersionParts, evaluation: Manifest, cache: PartCache) -> ModelCard:
    return ModelCard(
        model_name=model_name,
        model_digest=parts.train.identity["model_digest"],
        training=TrainConfig.model_validate(parts.train.facts["config"]),
        features=FeatureConfig.model_validate(parts.features.config),
        generation=EvaluationConfig.model_validate(evaluation.config).generation,
        num_patches=parts.features.facts["num_patches"],
        vision_width=parts.features.facts["vision_width"],
        answer_space=AnswerSpace.model_validate(parts.train.facts["answer_space"]),
        vision_tower=pin(parts.vision_tower, parts.base, cache),
        language_model=pin(parts.language_model, parts.base, cache),
        quantization=parts.train.facts.get("quantization"),
    )


def check_answers(
    package: Package, version: ModelVersion, evaluation: Manifest, parts: VersionParts, workspace: Workspace
) -> dict[str, int]:
    """Let a fresh process load the version's package and answer test examples. Raises IntegrityError unless it answers
    all as the evaluation did, and encodes their pictures as featurize did."""
    examples = held_out(evaluation, parts.dataset, workspace.cache)
    image_ids = [example.image_id for example in examples]
    features = FeatureStore(parts.features, workspace.cache)
    shots = _shots(examples, evaluation, parts, features, workspace)
    asked = [
        HeldExample(
            image_id=held.image_id,
            task=held.task,
            prompt=held.prompt,
            image=base64_of(held.image),
            features=base64_of(features_PV.tobytes()),
            shots=shots.get((held.image_id, held.task), []),
        )
        for held, features_PV in zip(examples, features.gather(image_ids), strict=True)
    ]
    answers = in_fresh_process(
        Request(
            package=package.folder,
            cache_dir=workspace.cache.folder,
            store_uri=workspace.store.uri,
            threads=workspace.profile.evaluate.threads_per_actor,
            examples=asked,
        )
    )
    remedy = "Check that vision_tower and language_model are those of the training, then start again."
    farthest = max(range(len(asked)), key=lambda row: answers.distances[row])
    if not answers.distances[farthest] <= MAX_FEATURE_DISTANCE:
        raise IntegrityError(
            f"{version.uri}: features of test image {image_ids[farthest][:12]}… are "
            f"{answers.distances[farthest]:.3f} of their norm away from the stored ones; expected at most "
            f"{MAX_FEATURE_DISTANCE}. {remedy}"
        )
    kinds = kinds_of(package.card.training)
    agreed = [
        _is_same(kinds[held.task], held.prediction, text) for held, text in zip(examples, answers.texts, strict=True)
    ]
    # A last bit can move an input over the border between two of int8's levels, as it can between two of bf16's.
    is_coarse = package.card.training.language_in_bf16 or package.card.quantization is not None
    needed = len(asked) // 2 + 1 if is_coarse else len(asked)
    if sum(agreed) < needed:
        row = agreed.index(False)
        raise IntegrityError(
            f"{version.uri}: {sum(agreed)} of {len(asked)} test examples were answered as in the evaluation; expected "
            f"{needed}. Example {examples[row].example_id[:12]}…: found {answers.texts[row]!r}, expected "
            f"{examples[row].prediction!r}. {remedy}"
        )
    return {"asked": len(asked), "agreed": sum(agreed)}


def _shots(
    examples: Sequence[HeldOut], evaluation: Manifest, parts: VersionParts, features: FeatureStore, workspace: Workspace
) -> dict[tuple[str, str], list[HeldShot]]:
    """What the evaluation showed before each of them, by image and task."""
    config = EvaluationConfig.model_validate(evaluation.config).few_shot
    if config is None:
        return {}
    training = TrainConfig.model_validate(parts.train.facts["config"])
    shown = read_examples(parts.dataset, workspace.cache, ["train"])
    found = few_shot_of(config, [(held.image_id, held.task) for held in examples], shown, training)

    def held(shot: Shot) -> HeldShot:
        return HeldShot(**shot._asdict(), features=base64_of(features.gather([shot.image_id]).tobytes()))

    return {key: [held(shot) for shot in found.shots[digest]] for key, digest in found.digests.items()}


def _is_same(kind: Kind, expected: str, found: str) -> bool:
    """Numbers are told to four digits, of which another batch size can move the last."""
    if kind != "regress":
        return found == expected
    pairs = zip(expected.split(", "), found.split(", "), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=2e-3, abs_tol=1e-6) for one, other in pairs)


def held_out(evaluation: Manifest, dataset: Manifest, cache: PartCache) -> list[HeldOut]:
    """The first test examples of each task by id, with their pictures."""
    import pyarrow.parquet as pq

    (part,) = evaluation.parts_of("predictions")
    columns = ["example_id", "image_id", "task", "prompt", "prediction"]
    rows = sorted(
        pq.read_table(cache.path(evaluation.step, part), columns=columns).to_pylist(), key=lambda row: row["example_id"]
    )
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    chosen = [row for task in sorted(by_task) for row in by_task[task][:CHECKED_PER_TASK]]
    images = images_by_id(dataset, {row["image_id"] for row in chosen}, cache)
    return [HeldOut(**row, image=images[row["image_id"]]) for row in chosen]


def _tags(parts: VersionParts, evaluation: Manifest) -> dict[str, str]:
    """Every input's fingerprint and digest, and the commit."""
    steps = [parts.dataset, parts.features, parts.train, evaluation, *([parts.base] if parts.base else [])]
    tags = {f"frostline.{manifest.step}_fingerprint": manifest.fingerprint for manifest in steps}
    for manifest in steps:
        tags |= {f"frostline.{name}": digest for name, digest in manifest.identity.items()}
    return {**tags, **parts.more_tags, "frostline.git_commit": git_commit()}
