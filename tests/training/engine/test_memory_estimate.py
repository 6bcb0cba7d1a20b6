"""The estimate of a rank's memory: what it counts is what is built, and its parts follow what they should."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from language_model_families import FAMILIES, families
from tiny_language_model import save_tokenizer

from infra.ray import worker_environment
from training.config import TrainConfig
from training.job import TrainJob
from training.memory_estimate import MemoryEstimate, Texts, estimate_memory
from training.memory_trace import trace

REPOSITORY = Path(__file__).resolve().parents[3]
SHAPE = (4, 8)
RATE = {"learning_rate": 1e-3}
FULL = {"kind": "full", **RATE}
REGIMES = [
    {"kind": "prefix"},
    {"kind": "lora", **RATE},
    {"kind": "prompt", "num_tokens": 3, **RATE},
    {"kind": "bitfit", **RATE},
    {"kind": "adapter", "width": 4, **RATE},
    FULL,
]


def estimates(job: TrainJob, **resources: Any) -> dict[int, MemoryEstimate]:
    asked = job.resources.model_copy(update=resources)
    return estimate_memory(job.config, asked, job.language_model_dir, SHAPE, Texts())


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime["kind"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_parameters_that_are_counted_are_those_that_are_built(
    make_job: Callable[..., TrainJob], tmp_path: Path, regime: dict[str, Any], precision: str
) -> None:
    from training.setup import prepare

    job = make_job(tmp_path, {"regime": regime, "precision": precision})
    built = list(prepare(job, 0, 1).build_model().parameters())
    traced = trace(job.config, job.resources, job.language_model_dir, SHAPE, Texts())
    assert traced.num_trained == sum(p.numel() for p in built if p.requires_grad)
    assert traced.num_frozen == sum(p.numel() for p in built if not p.requires_grad)
    assert traced.frozen == sum(p.nbytes for p in built if not p.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_language_models_can_be_estimated(
    make_job: Callable[..., TrainJob], tmp_path: Path, family: str
) -> None:
    model = families()[family]()
    model.save_pretrained(tmp_path / "lm")
    save_tokenizer(tmp_path / "lm")
    job = make_job(tmp_path).model_copy(update={"language_model_dir": tmp_path / "lm"})
    traced = trace(job.config, job.resources, job.language_model_dir, SHAPE, Texts())
    assert traced.num_frozen == sum(parameter.numel() for parameter in model.parameters())
    assert traced.activations > 0


def test_activations_follow_the_tokens_of_a_micro_batch(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    job = make_job(tmp_path, {"global_batch_images": 64, "objectives": {"caption": {}}})
    small, large = (estimates(job, micro_batch_tokens=tokens)[2].cpu["activations"] for tokens in (500, 2000))
    assert 3 < large / small < 5


def test_gradient_checkpointing_takes_less(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    job = make_job(tmp_path, {"regime": FULL})
    plain, less = (estimates(job, gradient_checkpointing=on)[2].cpu["activations"] for on in (False, True))
    assert less < plain


def test_each_stage_partitions_what_it_is_for(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    found = estimates(make_job(tmp_path, {"regime": FULL}), num_ranks=16)
    trained = found[0].cpu["moments"] // 2
    assert found[1].cpu["moments"] == 2 * (trained // 16)
    assert found[2].cpu["gradients"] < found[1].cpu["gradients"]
    assert found[0].cpu_bytes(1) > found[1].cpu_bytes(1) > found[2].cpu_bytes(1)
    assert all(estimate.cpu_bytes(0) - estimate.cpu_bytes(1) >= 3 * trained for estimate in found.values())


def test_on_a_gpu_the_process_and_the_checkpoint_stay_on_the_cpu(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    job = make_job(tmp_path, {"regime": FULL})
    estimate = estimates(job, gpus_per_rank=1)[2]
    assert set(estimate.cpu) == {"process", "batches", "checkpoint"}
    assert {"weights", "moments", "gradients", "activations"} <= set(estimate.gpu)
    away = estimates(job, gpus_per_rank=1, offload_optimizer=True)[2]
    assert "moments" in away.cpu and "moments" not in away.gpu


def test_a_locked_image_tuning_has_an_estimate_too(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    lit = {"mapper": None, "regime": {"kind": "lit", **RATE}, "objectives": {"contrast": {}}}
    job = make_job(tmp_path)
    config = TrainConfig.model_validate({**job.config.model_dump(mode="json"), **lit})
    found = estimates(job.model_copy(update={"config": config}))
    assert found[2].cpu["activations"] > 0


def test_the_estimate_knows_the_sizes_that_the_engine_works_with() -> None:
    """Stated twice, because a plan does not import the engine."""
    from training import checkpoints, data, memory_estimate, zero

    assert memory_estimate.BUCKET_BYTES == memory_estimate.FP32 * zero.BUCKET_ELEMENTS
    assert memory_estimate.PIECE_BYTES == checkpoints.PIECE_BYTES
    assert memory_estimate.BATCHES == data.PREFETCH_STEPS + 2


@pytest.mark.slow
def test_the_estimate_is_within_a_fifth_of_what_a_training_takes(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    """In a process of its own, since the peak is that of a process."""
    job = make_job(
        tmp_path, {"global_batch_images": 64, "epochs": 1, "regime": FULL}, {"micro_batch_tokens": 1024}, 128
    )
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "-m", "training.train", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **worker_environment(1, 0)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, timeout=600)
    (state,) = sorted((tmp_path / "store").glob("train/checkpoints/*/*/state.json"))[-1:]
    (peak,) = json.loads(state.read_text())["finished"]["peak_memory_bytes_by_rank"]
    assert 0.8 < estimates(job)[2].cpu_bytes() / peak < 1.2
