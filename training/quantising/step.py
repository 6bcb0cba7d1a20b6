"""The `quantise` step: a trained model whose language model is int8, as an output that stands in for its training's.

Whoever reads a `train` output reads this one alike: configuration and answer space as facts, the trained parameters
outside the language model as a part. The language model itself, with all that was trained in it, is a folder of parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.features import FeatureStore
from infra.digests import digest_file, digest_json
from infra.disk import scratch_folder
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part
from infra.tracking import ModelVersion
from infra.workspace import Workspace
from training.package import LANGUAGE_MODEL, TRAINABLES

if TYPE_CHECKING:
    from torch import Tensor

STEP = "quantise"
VERSION = 1
INT8 = "int8"
INSIDE = "lm."
"""Begins the names of what lies in the language model."""


def quantise_request(name: str, train: Manifest, features: Manifest, language_model_digest: str) -> OutputRequest:
    inputs = {
        "model_digest": train.identity["model_digest"],
        "encoder_key": features.identity["encoder_key"],
        "language_model_digest": language_model_digest,
    }
    return OutputRequest(STEP, VERSION, name, {"quantization": INT8}, inputs)


def quantise(
    train: Manifest, features: Manifest, language_model_folder: Path, attempt: Attempt, workspace: Workspace
) -> Draft:
    """Of a training. Raises ConfigError where this processor or this family has no int8."""
    from safetensors.torch import save_file

    from training.quantising.language_model import save_int8

    outside, tensors, note = _made(train, features, language_model_folder, workspace)
    with scratch_folder(STEP) as folder:
        save_file(outside, folder / TRAINABLES)
        save_int8(tensors, note, language_model_folder, folder / LANGUAGE_MODEL)
        files = [folder / TRAINABLES, *sorted((folder / LANGUAGE_MODEL).iterdir())]
        digests = {path.relative_to(folder).as_posix(): digest_file(path) for path in files}
        parts = [attempt.add_part(files[0], "trainables", len(outside), name=TRAINABLES)]
        for path in files[1:]:
            parts.append(attempt.add_part(path, LANGUAGE_MODEL, 0, name=path.relative_to(folder).as_posix()))
    facts = {name: train.facts[name] for name in ("config", "answer_space")}
    return Draft(
        parts=[*parts, *_history(train, attempt, workspace)],
        identity={"model_digest": digest_json([train.identity["model_digest"], digests])},
        counts={"rows_out": len(tensors)},
        facts={
            **facts,
            "validation_curve": train.facts.get("validation_curve", []),
            "quantization": INT8,
        },
    )


def _made(
    train: Manifest, features: Manifest, language_model_folder: Path, workspace: Workspace
) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """(trained outside the language model, the language model's tensors, note)."""
    from training.config import TrainConfig
    from training.language_model import language_model_for
    from training.prefix_model import trainable_state
    from training.quantising.language_model import int8_tensors, merge_updates, note_of
    from training.quantising.layers import check_processor
    from training.trained import load_trained

    check_processor()
    config = TrainConfig.model_validate(train.facts["config"])
    note = note_of(language_model_for(config, language_model_folder))  # before what was trained is in it
    stored = FeatureStore(features, workspace.cache)
    model, _ = load_trained(train, stored, language_model_folder, workspace.cache, "cpu")
    outside = {name: tensor for name, tensor in trainable_state(model).items() if not name.startswith(INSIDE)}
    merge_updates(model.lm.float())
    tensors, is_tied = int8_tensors(model.lm)
    return outside, tensors, note.model_copy(update={"is_tied": is_tied})


def _history(train: Manifest, attempt: Attempt, workspace: Workspace) -> list[Part]:
    """The training's curves: a report shows them."""
    return [
        attempt.add_part(workspace.cache.path(train.step, part), part.kind, part.num_rows, name=part.name)
        for part in train.parts_of("history")
    ]


def tags_of_origin(version: ModelVersion, train: Manifest) -> dict[str, str]:
    """Of a version in int8: what it came from."""
    return {
        "frostline.quantized_from": version.uri,
        "frostline.quantized_from_digest": train.identity["model_digest"],
        "frostline.quantized_from_train": train.fingerprint,
    }
