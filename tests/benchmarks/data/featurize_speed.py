"""Featurize against a bare loop: decode, processor and encoder in as many processes as cores, and no store."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from photos import photo_folder
from plan import Plan
from results import Result, interleaved, rates, ratio
from sides import Side
from towers import vit_small

from infra.ray import worker_environment

NUM_UNITS_PER_CORE = 4
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
        told = "1 core" if len(cores) == 1 else f"{len(cores)} cores"
        with ExitStack() as stack:
            frostline = stack.enter_context(Side("frostline", sys.executable, "data/frostline_side.py", cores))
            loops = [stack.enter_context(loop) for loop in _bare_loops(cores)]
            frostline.ask("start_ray", root=str(plan.root), num_cores=len(cores))
            for name, (tower, images_per_core) in towers.items():
                yield _compare(plan, f"featurize, {name}, {told}", tower, images_per_core, [frostline, *loops])


def _bare_loops(cores: list[int]) -> list[Side]:
    """As one would write it; and with the memory allocator set as our actors have it, where they have it set."""
    script = "data/bare_loop_side.py"
    allocator = {name: value for name, value in worker_environment(1, 0).items() if name.startswith("MALLOC_")}
    loops = [Side("bare loop", sys.executable, script, cores)]
    return loops + ([Side("bare loop, our malloc", sys.executable, script, cores, allocator)] if allocator else [])


def _compare(plan: Plan, name: str, tower: Path, images_per_core: int, sides: list[Side]) -> Result:
    num_cores = sides[0].num_cores
    num_images = images_per_core * num_cores
    folder = photo_folder(plan.root, plan.photos, num_images)
    root = plan.stores / "featurize"
    shutil.rmtree(root, ignore_errors=True)
    both = {"folder": str(folder), "tower": str(tower), "images_per_batch": plan.images_per_batch}
    both["num_cores"] = num_cores
    ours = {**both, "root": str(root), "images_per_shard": images_per_core // NUM_UNITS_PER_CORE}
    asked = {side.name: ours if side is sides[0] else both for side in sides}
    runs = {side.name: partial(side.ask, "featurize", **asked[side.name]) for side in sides}
    answers = interleaved(plan.featurize_rounds, runs)
    assert {answer["images"] for found in answers.values() for answer in found} == {num_images}
    rated = {side.name: rates(side, asked[side.name], answers[side.name]) for side in sides}
    return ratio(name, ("frostline", "bare loop"), rated, 0.9, CONDITIONS.format(batch=plan.images_per_batch))
