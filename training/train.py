"""The `train` step: examples and features and a frozen language model in, the trained parameters out.

Under torchrun: `torchrun --nproc-per-node N -m training.train JOB.json` trains the same job on the same checkpoints;
the next `frostline run` finds it finished.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from infra.digests import canonical_json, digest_bytes, digest_json
from infra.disk import scratch_folder
from infra.errors import FrostlineError, PlatformError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest
from infra.store import Store
from infra.workspace import Workspace
from training.checkpoints import Checkpoint, CheckpointFolder
from training.config import TrainConfig
from training.job import Tracking, TrainJob, checkpoint_prefix
from training.regimes.config import LoraRegime, PromptRegime

STEP = "train"
VERSION = 2
UNDECISIVE = {"keep_checkpoints", "max_skipped_steps"}
"""Fields that change no weight: another value must not train again."""
CURVES = ("loss", "grad_norm", "learning_rate")
"""Exported, with each task's loss: what is a function of configuration and inputs. Speeds are facts."""


def train_request(
    config: TrainConfig, name: str, dataset: Manifest, features: Manifest, lm_digest: str
) -> OutputRequest:
    return OutputRequest(
        step=STEP,
        version=VERSION,
        name=name,
        config=config.model_dump(mode="json", exclude=_undecisive(config)),
        inputs={
            "dataset_digest": dataset.identity["dataset_digest"],
            "encoder_key": features.identity["encoder_key"],
            "language_model_digest": lm_digest,
        },
    )


def _undecisive(config: TrainConfig) -> dict[str, Any]:
    """What pydantic leaves out: the times of validations and checkpoints decide only where the export follows them."""
    stopping = config.stopping
    fields: dict[str, Any] = dict.fromkeys(UNDECISIVE, True)
    unused = {"average_checkpoints"} if stopping.export != "average" else set()
    if stopping.export != "average":
        fields["checkpoint_every_steps"] = True
    if not stopping.needs_validation:
        fields |= {"validate_every_steps": True, "validation_images": True}
        unused.add("metric")
    return {**fields, "stopping": unused}


def train(
    config: TrainConfig,
    dataset: Manifest,
    features: Manifest,
    language_model_dir: Path,
    attempt: Attempt,
    workspace: Workspace,
) -> Draft:
    """Train on the connected Ray cluster, from the newest checkpoint if there is one, and export what was trained.

    The checkpoints stay until the output is committed."""
    from training.launch import launch

    job = TrainJob(
        config=config,
        resources=workspace.profile.train,
        fingerprint=attempt.request.fingerprint,
        dataset=dataset,
        features=features,
        language_model_dir=language_model_dir.absolute(),
        store_uri=workspace.store.uri,
        cache_dir=workspace.cache.folder.absolute(),
        tracking=Tracking(
            uri=workspace.settings.mlflow, experiment=attempt.request.name, tags={"frostline.step": STEP}
        ),
    )
    _write_job(job, workspace)
    if finished_checkpoint(workspace.store, job) is None:
        launch(job, workspace.progress)
    checkpoint = finished_checkpoint(workspace.store, job)
    if checkpoint is None:
        raise PlatformError(
            f"{workspace.store.uri}/{checkpoint_prefix(job.fingerprint)}: the ranks ended, but no finished checkpoint "
            "was found; expected one. Start again to resume from the newest."
        )
    return _export(checkpoint, job, attempt)


def _write_job(job: TrainJob, workspace: Workspace) -> None:
    """For torchrun. Without the tracking server, whose address may hold a password."""
    path = workspace.cache.folder / "jobs" / f"{job.fingerprint}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_copy(update={"tracking": None}).model_dump_json(indent=1))


def finished_checkpoint(store: Store, job: TrainJob) -> Checkpoint | None:
    """The checkpoint of the last global step, if this training has come to its end."""
    newest, _ = CheckpointFolder(store, checkpoint_prefix(job.fingerprint), job.config.keep_checkpoints).newest()
    return newest if newest is not None and newest.state.get("finished") else None


def _export(checkpoint: Checkpoint, job: TrainJob, attempt: Attempt) -> Draft:
    from safetensors.torch import save

    curves = checkpoint.state["history"]["curves"]
    exported = {name: curve for name, curve in curves.items() if name in CURVES or name.startswith("loss_")}
    tensors = dict(sorted(checkpoint.tensors["export"].items()))
    trainables = save(tensors)
    facts = checkpoint.state["finished"]
    files = {
        "trainables.safetensors": ("trainables", len(tensors), trainables),
        "history.json": ("history", len(exported.get("loss", [])), canonical_json(exported)),
        **{f"peft/{name}": ("peft", 0, data) for name, data in _peft_files(job, tensors).items()},
    }
    with scratch_folder(STEP) as folder:
        parts = []
        for name, (kind, num_rows, data) in files.items():
            path = folder / name.replace("/", "-")
            path.write_bytes(data)
            parts.append(attempt.add_part(path, kind, num_rows, name=name))
    return Draft(
        parts=parts,
        identity={"model_digest": _model_digest(checkpoint, job, attempt.request, digest_bytes(trainables))},
        counts={
            "rows_out": facts["num_train_examples"],
            "images": facts["num_train_images"],
            "targets": facts["num_train_targets"],
            "global_steps": checkpoint.step,
        },
        facts=_facts(checkpoint, job, curves),
    )


def _peft_files(job: TrainJob, trained: dict[str, Any]) -> dict[str, bytes]:
    """The folder of a PEFT adapter, where the regime is one of PEFT's."""
    from training.regimes.peft_export import peft_files

    regime = job.config.regime
    if not isinstance(regime, LoraRegime | PromptRegime):
        return {}
    return peft_files(regime, trained)


def _facts(checkpoint: Checkpoint, job: TrainJob, curves: dict[str, list[list[float]]]) -> dict[str, Any]:
    """What is worth knowing and decides nothing."""
    state = checkpoint.state
    return {
        "config": job.config.model_dump(mode="json"),
        "final": {name: curve[-1][1] for name, curve in sorted(curves.items())},
        "validation_curve": curves.get("val_loss", []),
        "speed_curves": {name: curve for name, curve in curves.items() if name.endswith(("_per_second", "_seconds"))},
        "seconds": state["seconds"],
        "resumed_from": state["resumed_from"],
        "messages": state["messages"],
        **state["finished"],
    }


def _model_digest(checkpoint: Checkpoint, job: TrainJob, request: OutputRequest, trainables_digest: str) -> str:
    """What the model computes: its trained bytes, the frozen models around them, and the text before the target."""
    return digest_json(
        {
            "trainables": trainables_digest,
            "encoder_key": request.inputs["encoder_key"],
            "language_model": request.inputs["language_model_digest"],
            "answer_space": checkpoint.state["finished"]["answer_space"],
            **job.config.model_dump(mode="json", include={"mapper", "regime", "objectives", "precision"}),
        }
    )


def main(job_path: str) -> int:
    """One rank of torchrun. The exit code is that of the error's class."""
    from training.launch import run_from_environment

    try:
        run_from_environment(TrainJob.model_validate_json(Path(job_path).read_text()))
    except FrostlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    ended_with = main(sys.argv[1])
    sys.stdout.flush(), sys.stderr.flush()
    # Not by way of Python's end, where threads of gloo that outlive their group may abort a rank that is done.
    os._exit(ended_with)
