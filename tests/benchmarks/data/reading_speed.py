"""Reading features back on one core: verified, from the cache, and a few images out of many."""

import shutil
import sys
from collections.abc import Iterator

from photos import photo_folder
from plan import Plan
from results import Result, runs_of
from sides import Side
from towers import wide_and_shallow

NUM_PARTS = 6
CONDITIONS = (
    "One core. Features of 196 × 768 numbers in float16, {gigabytes:.2f} GB in all, 32 images at a time; compared bit "
    "by bit with the parts. Opening the store is in the time, the parts are in the page cache. "
)
FIRST = "The local cache is empty: fetching, sha256 of every part, then each image once."
CACHED = "The local cache is filled: each image once, in random order."
RANDOM = (
    "No page of the cache's files in memory: bytes read from disk for one image of each part, over the parts' size."
)


def measure(plan: Plan) -> Iterator[Result]:
    tower = wide_and_shallow(plan.root)
    folder = photo_folder(plan.root, plan.photos, plan.reading_images)
    root = plan.stores / "reading"
    shutil.rmtree(root, ignore_errors=True)
    asked = {"root": str(root), "folder": str(folder), "tower": str(tower)}
    asked["images_per_shard"] = plan.reading_images // NUM_PARTS
    with Side("frostline", sys.executable, "data/frostline_side.py", plan.all_cores) as side:
        side.ask("start_ray", root=str(plan.root), num_cores=len(plan.all_cores))
        side.ask("featurize_for", **asked)
    with Side("frostline", sys.executable, "data/frostline_side.py", plan.all_cores[:1]) as side:
        answers = [side.ask("read_features", **asked) for _ in range(plan.rounds)]
    conditions = CONDITIONS.format(gigabytes=answers[0]["gigabytes"])
    for name, field, goal, told in (
        ("features, first read with verification", "first", 1.0, FIRST),
        ("features, read from the cache", "cached", 2.0, CACHED),
    ):
        runs = runs_of(side, asked, "GB/s", [answer["gigabytes"] / answer[field]["seconds"] for answer in answers])
        runs.runs_by_cpu.extend(round(answer["gigabytes"] / answer[field]["cpu_seconds"], 3) for answer in answers)
        yield Result(name, round(runs.median, 3), "GB/s", goal, True, {"frostline": runs}, conditions + told)
    shares = [answer["bytes_from_disk"] / answer["bytes_of_parts"] for answer in answers]
    runs = runs_of(side, asked, "of the parts", shares)
    name = "features, random images: share of their parts read"
    yield Result(name, round(runs.median, 4), "share", 0.05, False, {"frostline": runs}, conditions + RANDOM)
