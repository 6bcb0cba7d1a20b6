"""Featurize against a bare loop: decode, processor and encoder in as many processes as cores, and no store."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from photos import photo_folder
from plan import Plan
from results import Result, interleaved, rates, ratio
from sides import Side
from towers import vit_small

NUM_UNITS_PER_CORE = 8
CONDITIONS = (
    "From the moment the processes have loaded their tower to the last feature: on our side committed in the store, in "
    "the bare loop in memory. Left out on both sides: starting processes, importing, loading the tower. The same "
    "files, float32, {batch} images a batch, one thread a process, a process a core; `taskset` holds both sides to the "
    "cores. Ray's own processes run on the same cores."
)


def measure(plan: Plan) -> Iterator[Result]:
    towers = {"ViT-S": (vit_small(plan.root), plan.vit_images_per_core)}
    towers["MobileNetV2"] = (plan.mobilenet, plan.mobilenet_images_per_core)
    for cores in (plan.all_cores[:count] for count in plan.core_counts):
        with (
            Side("frostline", sys.executable, "frostline_side.py", cores) as frostline,
            Side("bare loop", sys.executable, "bare_loop_side.py", cores) as bare,
        ):
            frostline.ask("start_ray", root=str(plan.root), num_cores=len(cores))
            for name, (tower, images_per_core) in towers.items():
                yield _compare(plan, f"featurize, {name}, {_cores(cores)}", tower, images_per_core, (frostline, bare))


def _compare(plan: Plan, name: str, tower: Path, images_per_core: int, sides: tuple[Side, Side]) -> Result:
    frostline, bare = sides
    num_cores = frostline.num_cores
    folder = photo_folder(plan.root, plan.photos, images_per_core * num_cores)
    root = plan.root / "featurize"
    shutil.rmtree(root, ignore_errors=True)
    theirs = {"folder": str(folder), "tower": str(tower), "num_processes": num_cores}
    theirs["batch_size"] = plan.images_per_batch
    ours = {"folder": str(folder), "tower": str(tower), "num_cores": num_cores, "root": str(root)}
    ours |= {"images_per_batch": plan.images_per_batch, "images_per_shard": images_per_core // NUM_UNITS_PER_CORE}
    runs = {
        "frostline": lambda: frostline.ask("featurize", **ours),
        "bare loop": lambda: bare.ask("featurize", **theirs),
    }
    answers = interleaved(plan.rounds, runs)
    assert {answer["images"] for found in answers.values() for answer in found} == {images_per_core * num_cores}
    rated = {
        "frostline": rates(frostline, ours, answers["frostline"]),
        "bare loop": rates(bare, theirs, answers["bare loop"]),
    }
    return ratio(name, ("frostline", "bare loop"), rated, 0.9, CONDITIONS.format(batch=plan.images_per_batch))


def _cores(cores: list[int]) -> str:
    return "1 core" if len(cores) == 1 else f"{len(cores)} cores"
