"""How much memory each rank of a training takes, by what takes it, before anything runs.

Of one global step, at its fullest: N ranks, T bytes of trained parameters in fp32. What is said of DeepSpeed's copies
was read in release 0.19 and measured (tests/benchmarks/memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.settings import TrainResources
from training.config import TrainConfig

FP32 = 4
PIECE_BYTES = 2**27
"""A file of a checkpoint while it is written (training/checkpoints.py)."""
BUCKET_BYTES = FP32 * 2**24
"""Gradients reduced at once (training/zero.py)."""
BATCHES = 6
"""Global batches that are made: those ahead (training/data.py), the next, and the one that is trained."""
GATHERED_PARAMETERS = 10**9
"""DeepSpeed's own bound of what is whole at a time in stage 3."""
PROCESS_BYTES = 620 * 2**20
"""Python with torch, DeepSpeed and transformers, and a gloo group of two: the peak of a rank that trains a language
model of one layer, 16 wide (tests/benchmarks/memory; torch 2.13, DeepSpeed 0.19, transformers 5.23)."""
STAGES = (0, 1, 2, 3)
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Texts:
    """What is trained on, as far as memory follows it."""

    targets_per_image: int = 5
    tokens_per_target: int = 12
    """As COCO's captions have them."""
    num_labels: int = 10


@dataclass(frozen=True)
class Trace:
    """Of one rank, in bytes but for the counts."""

    num_trained: int
    largest_trained: int
    num_frozen: int
    frozen: int
    activations: int
    """The most that is alive in forward and backward of one micro batch, parameters and their gradients left out."""
    global_batch: int
    """This rank's share of a global batch as tensors."""


class UntraceableError(Exception):
    """A model whose course depends on numbers, which a trace does not have."""


class MemoryEstimate(BaseModel):
    """Bytes of one rank by what takes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    zero_stage: int
    cpu: dict[str, int]
    gpu: dict[str, int]
    """Empty where ranks have no GPU."""

    def cpu_bytes(self, rank: int = 0) -> int:
        """Rank 0 holds what a checkpoint is written from; the others need not."""
        return sum(size for name, size in self.cpu.items() if rank == 0 or name != CHECKPOINT)

    @property
    def gpu_bytes(self) -> int:
        return sum(self.gpu.values())


def estimate_memory(
    config: TrainConfig,
    resources: TrainResources,
    language_model_dir: Path,
    shape: tuple[int, int],
    texts: Texts,
) -> dict[int, MemoryEstimate]:
    """By ZeRO stage. `shape` is (patches, vision width) of the features. Reads the language model's configuration and
    tokenizer, and imports torch and transformers. Raises ConfigError for a model that cannot be trained,
    UntraceableError for one that cannot be estimated."""
    from training.memory_trace import trace

    traced = trace(config, resources, language_model_dir, shape, texts)
    return {stage: estimate_of(traced, resources.model_copy(update={"zero_stage": stage})) for stage in STAGES}


def estimate_of(traced: Trace, resources: TrainResources) -> MemoryEstimate:
    """Under the stage that the resources name."""
    process = {"process": PROCESS_BYTES, "batches": traced.global_batch * BATCHES}
    trained = FP32 * traced.num_trained
    piece = min(2 * trained, max(PIECE_BYTES, FP32 * traced.largest_trained))
    checkpoint = 3 * trained + 2 * piece  # parameters and moments, and a piece while it becomes bytes
    held = _held(traced, resources)
    on_gpu = held if resources.gpus_per_rank else {}
    on_cpu = {} if resources.gpus_per_rank else held
    if on_gpu and resources.zero_stage and resources.offload_optimizer:
        on_cpu |= {name: on_gpu.pop(name) for name in ("optimizer's copy", "moments")}
    if on_gpu and resources.zero_stage == 3 and resources.offload_parameters:
        partition = (traced.frozen + trained) // resources.num_ranks
        on_cpu["weights"] = partition
        on_gpu["weights"] -= partition
    return MemoryEstimate(
        zero_stage=resources.zero_stage, cpu={**process, **on_cpu, CHECKPOINT: checkpoint}, gpu=on_gpu
    )


def _held(traced: Trace, resources: TrainResources) -> dict[str, int]:
    """What is where the model computes."""
    stage, num_ranks = resources.zero_stage, resources.num_ranks
    trained = FP32 * traced.num_trained
    whole = traced.frozen + trained
    part = trained // num_ranks
    # Of the parameters that are updated here; in stage 3 what partitioning leaves behind.
    copies = part if stage else 0
    # Gathered for a layer and kept for the next ones, beside the buffers that they come in.
    gathered = int(whole * min(1, GATHERED_PARAMETERS / (traced.num_trained + traced.num_frozen)))
    weights = whole // num_ranks + 2 * gathered if stage == 3 else whole
    # In one piece for the update once more; in stage 0 for the all-reduce, when activations are gone.
    bucket = BUCKET_BYTES if resources.gpus_per_rank else min(trained, BUCKET_BYTES)
    shared = 2 * part + bucket
    gradients = {0: trained, 1: trained + shared, 2: shared, 3: shared}[stage]
    flat = trained if stage == 0 and num_ranks > 1 else 0
    return {
        "weights": weights,
        "optimizer's copy": copies,
        "moments": 2 * (part if stage else trained),
        "gradients": gradients,
        "activations": max(traced.activations, flat),
    }
