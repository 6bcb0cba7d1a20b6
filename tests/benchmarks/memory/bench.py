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

from jobs import (
    CASES,
    NUM_PATCHES,
    TARGETS_PER_IMAGE,
    VISION_WIDTH,
    WORDS_PER_TARGET,
    Case,
    job_of,
    language_model_of,
    settings_of,
)

from infra.ray import worker_environment
from infra.store import open_store
from training.checkpoints import CheckpointFolder
from training.job import checkpoint_prefix
from training.memory_estimate import Texts, estimate_memory

REPOSITORY = Path(__file__).resolve().parents[3]
RANGE = (0.8, 1.2)


def measured(case: Case, root: Path) -> dict[str, Any]:
    """Train, and tell the ranks' peaks."""
    environment = worker_environment(2 // case.num_ranks, 0)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(case.num_ranks)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "training.train", "job.json"]
    with tempfile.TemporaryDirectory(dir=root) as folder:
        job = job_of(case, Path(folder), language_model_of(case.size, root))
        Path(folder, "job.json").write_text(job.model_dump_json())
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
        done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{case.name}: the training ended with {done.returncode}.\n{done.stderr[-8000:]}")
        folder_of = CheckpointFolder(open_store(job.store_uri), checkpoint_prefix(job.fingerprint), 1)
        checkpoint, _ = folder_of.newest()
    assert checkpoint is not None and checkpoint.state["finished"]
    return {
        "peak_bytes_by_rank": checkpoint.state["finished"]["peak_memory_bytes_by_rank"],
        "losses": checkpoint.state["history"]["curves"]["loss"],
        "command": ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
    }


def compared(runs: dict[str, dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """What was measured, beside the estimates."""
    found: dict[Any, Any] = {}
    results = []
    for case in CASES:
        if case.name not in runs:
            continue
        like = (case.size, case.regime, case.num_ranks)
        if like not in found:
            texts, shape = Texts(TARGETS_PER_IMAGE, WORDS_PER_TARGET), (NUM_PATCHES, VISION_WIDTH)
            config, resources = settings_of(case)
            found[like] = estimate_memory(config, resources, language_model_of(case.size, root), shape, texts)
        estimate = found[like][case.zero_stage]
        estimates = [estimate.cpu_bytes(rank) for rank in range(case.num_ranks)]
        ratios = [e / peak for e, peak in zip(estimates, runs[case.name]["peak_bytes_by_rank"], strict=True)]
        results.append(
            {
                "name": f"estimated memory over measured peak: {case.name}",
                "value": max(ratios, key=lambda ratio: abs(ratio - 1)),
                "unit": "estimate / peak, of the rank where it is furthest off",
                "goal": RANGE,
                "estimate_bytes_by_rank": estimates,
                "estimate_bytes_of_rank_0": estimate.cpu,
                "sides": runs[case.name],
            }
        )
    return results


def show(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("trained", "rank", "peak MiB", "estimate MiB", "estimate / peak", "", box=None, pad_edge=False)
    for result in results:
        pairs = zip(result["sides"]["peak_bytes_by_rank"], result["estimate_bytes_by_rank"], strict=True)
        for rank, (peak, estimate) in enumerate(pairs):
            met = "met" if RANGE[0] <= estimate / peak <= RANGE[1] else "MISSED"
            name = "" if rank else result["name"].partition(": ")[2]
            told = (f"{peak / 2**20:,.0f}", f"{estimate / 2**20:,.0f}", f"{estimate / peak:.2f}", met)
            table.add_row(name, str(rank), *told)
    Console(width=120).print(table)


def main(selected: list[str]) -> None:
    """All cases; or those whose names hold every one of the words, beside what was measured of the others before."""
    root = REPOSITORY / "var" / "bench" / "memory"
    root.mkdir(parents=True, exist_ok=True)
    runs_file, told = root / "runs.json", root.parent / "memory.json"
    runs = json.loads(runs_file.read_text()) if selected and runs_file.exists() else {}
    for case in CASES:
        if all(word in case.name for word in selected):
            print(f"training {case.name}", flush=True)
            runs[case.name] = measured(case, root)
            runs_file.write_text(json.dumps(runs))
    results = compared(runs, root)
    told.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main(sys.argv[1:])
