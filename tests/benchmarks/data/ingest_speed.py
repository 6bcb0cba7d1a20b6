"""Ingest against Hugging Face `datasets`: the same files, the same facts of each, Parquet with the bytes at the end."""

import sys
from collections.abc import Iterator

from photos import photo_folder, truncated_names
from plan import Plan
from results import Result, interleaved, rates, ratio
from sides import Side

CONDITIONS = (
    "From the list of files to committed Parquet: reading, sha256, a decode that finds files cut short, size, "
    "perceptual hash, writing; on our side examples, quarantine, statistics and manifest too. Left out on both sides: "
    "starting the program and its imports. In the time on both sides: starting the processes that share the work. "
    "The files are in the page cache."
)


def measure(plan: Plan) -> Iterator[Result]:
    folder = photo_folder(plan.root, plan.photos, plan.ingest_images, some_truncated=True)
    cores = plan.all_cores
    ours = {"folder": str(folder), "images_per_shard": plan.images_per_shard, "num_processes": len(cores)}
    theirs = {"folder": str(folder), "num_processes": len(cores)}
    with (
        Side("frostline", sys.executable, "data/frostline_side.py", cores) as frostline,
        Side("datasets", plan.baseline_python, "data/datasets_side.py", cores) as baseline,
    ):
        runs = {
            "frostline": lambda: frostline.ask("ingest", **ours),
            "datasets": lambda: baseline.ask("ingest", **theirs),
        }
        interleaved(1, runs)  # page cache, lazy imports
        answers = interleaved(plan.rounds, runs)
    expected = truncated_names(folder)
    for name, found in answers.items():
        for answer in found:
            assert answer["bad"] == expected, f"{name} found {answer['bad']} cut short; expected {expected}"
    sides = {
        "frostline": rates(frostline, ours, answers["frostline"]),
        "datasets": rates(baseline, theirs, answers["datasets"]),
    }
    yield ratio(f"ingest, {len(cores)} cores", ("frostline", "datasets"), sides, 1.8, CONDITIONS)
