"""What the training of a plan would take of each rank's memory. Imports torch and transformers, reads no weights."""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data_prep import pretrained
from data_prep.pretrained import PretrainedRef
from flows.recipe import Recipe
from flows.steps import Outputs
from infra.outputs import Manifest, part_key
from infra.workspace import Workspace
from training.memory_estimate import MemoryEstimate, Texts, UntraceableError, estimate_memory

TOKENS_PER_WORD = 1.4
GPU_CONTEXT_BYTES = 600 * 2**20
"""What a process takes of a GPU before its first tensor."""


class PlannedMemory(BaseModel):
    """Part of the contract of `frostline plan --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    zero_stage: int
    """The profile's."""
    num_ranks: int
    by_stage: list[MemoryEstimate] = []
    """For comparison, all of them."""
    unknown: str = ""
    """Why there is no estimate, where there is none."""
    warnings: list[str] = []


def plan_memory(recipe: Recipe, outputs: Outputs, workspace: Workspace) -> PlannedMemory:
    """Raises ConfigError where the models or the recipe cannot be trained."""
    resources, base = workspace.profile.train, outputs.get("base")
    told = PlannedMemory(zero_stage=resources.zero_stage, num_ranks=resources.num_ranks)
    with (
        _folder(recipe.language_model, base, workspace) as language_model,
        _folder(recipe.vision_tower, base, workspace) as tower,
    ):
        shape = _shape(outputs.get("featurize"), tower, recipe)
        if language_model is None or shape is None:
            return told.model_copy(update={"unknown": "it is estimated once the models are on this machine"})
        try:
            found = estimate_memory(recipe.training, resources, language_model, shape, _texts(outputs.get("ingest")))
        except UntraceableError as error:
            return told.model_copy(update={"unknown": str(error)})
    warnings = memory_warnings(found[resources.zero_stage], workspace)
    return told.model_copy(update={"by_stage": list(found.values()), "warnings": warnings})


def check_training(recipe: Recipe, outputs: Outputs, workspace: Workspace) -> None:
    """Raises ConfigError where the ranks would refuse mapper, regime or objectives, if the models are known already."""
    from training.memory_trace import check_trainable

    base = outputs.get("base")
    with (
        _folder(recipe.language_model, base, workspace) as language_model,
        _folder(recipe.vision_tower, base, workspace) as tower,
    ):
        shape = _shape(outputs.get("featurize"), tower, recipe)
        if language_model is not None and shape is not None:
            check_trainable(recipe.training, workspace.profile.train, language_model, shape)


@contextmanager
def _folder(ref: PretrainedRef, base: Manifest | None, workspace: Workspace) -> Iterator[Path | None]:
    """A model's configuration and tokenizer, where they can be had without a download."""
    if ref.base is None:
        yield pretrained.local_folder(ref)
    elif base is None:
        yield None
    else:
        with tempfile.TemporaryDirectory() as folder:
            for part in base.parts:
                model, _, name = part.name.partition("/")
                if model == ref.base and not name.endswith(".safetensors"):
                    data = workspace.store.read(part_key(base.step, part.digest))
                    Path(folder, name).write_bytes(data or b"")
            yield Path(folder)


def _shape(features: Manifest | None, tower: Path | None, recipe: Recipe) -> tuple[int, int] | None:
    """(patches, vision width)."""
    from data_prep.tower import feature_shape

    if features is not None:
        return int(features.facts["num_patches"]), int(features.facts["vision_width"])
    return feature_shape(tower, recipe.featurize) if tower else None


def _texts(dataset: Manifest | None) -> Texts:
    if dataset is None:
        return Texts()
    found = dataset.facts["statistics"]
    examples, images = (
        sum(n for split, n in found[kind].items() if "train" in split) for kind in ("examples", "images")
    )
    words = found["target_words"]["median"]
    return Texts(max(1, round(examples / max(images, 1))), max(1, math.ceil(words * TOKENS_PER_WORD)))


def memory_warnings(estimate: MemoryEstimate, workspace: Workspace) -> list[str]:
    """A sentence for the machine, and one for its GPU, where it is known to have less."""
    resources, found = workspace.profile.train, []
    remedy = (
        "Lower profile.train.micro_batch_tokens, raise profile.train.zero_stage or set "
        "profile.train.gradient_checkpointing=true."
    )
    if not _joins_cluster(workspace):
        needed = sum(estimate.cpu_bytes(rank) for rank in range(resources.num_ranks))
        if needed > (available := memory_of_machine()):
            found.append(
                f"training takes about {gigabytes(needed)} of this machine's memory ({resources.num_ranks} ranks); "
                f"expected at most the {gigabytes(available)} it has. {remedy}"
            )
    available_gpu = _memory_of_gpu() if resources.gpus_per_rank else None
    if available_gpu is not None and estimate.gpu_bytes + GPU_CONTEXT_BYTES > available_gpu:
        found.append(
            f"training takes about {gigabytes(estimate.gpu_bytes + GPU_CONTEXT_BYTES)} of each GPU; expected at most "
            f"the {gigabytes(available_gpu)} it has. {remedy} profile.train.offload_optimizer=true helps too."
        )
    return found


def _joins_cluster(workspace: Workspace) -> bool:
    address = workspace.profile.ray.address or os.environ.get("RAY_ADDRESS")
    return address not in (None, "", "local")


def memory_of_machine() -> int:
    """Bytes that this process may use: the container's limit where it has one."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (told := limit.read_text().strip()).isdigit():
        limits.append(int(told))
    return min(limits)


def _memory_of_gpu() -> int | None:
    import torch

    return int(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None


def gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
