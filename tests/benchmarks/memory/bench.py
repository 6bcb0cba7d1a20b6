"""Peak memory of every rank of real trainings, beside the estimate that `frostline plan` shows: `make bench-memory`.

Each case trains under torchrun with the variables of a Ray worker, checkpoints included; what is told is the peak of
resident memory that the ranks themselves found. Writes var/bench/memory.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

from jobs import (  # noqa: E402
    GPT2,
    NUM_PATCHES,
    REGIMES,
    SMALL,
    TARGETS_PER_IMAGE,
    VISION_WIDTH,
    WORDS_PER_TARGET,
    Case,
    job_of,
    language_model_of,
)

from infra.ray import worker_environment  # noqa: E402
from infra.store import open_store  # noqa: E402
from training.checkpoints import CheckpointFolder  # noqa: E402
from training.job import checkpoint_prefix  # noqa: E402
from training.memory_estimate import Texts, estimate_memory  # noqa: E402

RANGE = (0.8, 1.2)


def measured(case: Case, root: Path) -> dict[str, Any]:
    """Train, and put the ranks' peaks beside the estimate."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        job = job_of(case, Path(folder), language_model_of(case.size, root))
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json())
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(case.num_ranks)]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "training.train", str(path)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **worker_environment(2 // case.num_ranks, 0)}
        subprocess.run(command, env=environment, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        folder_of = CheckpointFolder(open_store(job.store_uri), checkpoint_prefix(job.fingerprint), 1)
        checkpoint, _ = folder_of.newest()
    assert checkpoint is not None and checkpoint.state["finished"]
    found = estimate_memory(
        job.config,
        job.resources,
        job.language_model_dir,
        (NUM_PATCHES, VISION_WIDTH),
        Texts(TARGETS_PER_IMAGE, WORDS_PER_TARGET),
    )
    estimate = found[case.zero_stage]
    return {
        "name": case.name,
        "unit": "bytes",
        "peaks_by_rank": checkpoint.state["finished"]["peak_memory_bytes_by_rank"],
        "estimates_by_rank": [estimate.cpu_bytes(rank) for rank in range(case.num_ranks)],
        "items": estimate.cpu,
        "losses": checkpoint.state["history"]["curves"]["loss"],
        "command": ["env", *(f"{k}={v}" for k, v in worker_environment(2 // case.num_ranks, 0).items()), *command],
    }


def show(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("trained", "rank", "peak MiB", "estimate MiB", "estimate / peak", "", box=None, pad_edge=False)
    for result in results:
        for rank, pair in enumerate(zip(result["peaks_by_rank"], result["estimates_by_rank"], strict=True)):
            peak, estimate = (number / 2**20 for number in pair)
            met = "met" if RANGE[0] <= estimate / peak <= RANGE[1] else "MISSED"
            name = "" if rank else result["name"]
            table.add_row(name, str(rank), f"{peak:,.0f}", f"{estimate:,.0f}", f"{estimate / peak:.2f}", met)
    Console(width=110).print(table)


def main(selected: list[str]) -> None:
    """All cases, or those whose name holds every one of the words; the others keep what was measured before."""
    root = REPOSITORY / "var" / "bench" / "memory"
    root.mkdir(parents=True, exist_ok=True)
    told = root.parent / "memory.json"
    results = {row["name"]: row for row in (json.loads(told.read_text()) if told.exists() else [])}
    cases = [Case(size, regime, stage, 2) for size in (SMALL, GPT2) for regime in REGIMES for stage in range(4)]
    cases += [Case(size, regime, 2, 1) for size in (SMALL, GPT2) for regime in REGIMES]
    for case in cases:
        if all(word in case.name for word in selected):
            results[case.name] = measured(case, root)
            show([results[case.name]])
            told.write_text(json.dumps(list(results.values()), indent=1) + "\n")
    show([results[case.name] for case in cases if case.name in results])


if __name__ == "__main__":
    main(sys.argv[1:])
