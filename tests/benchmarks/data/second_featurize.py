"""A featurize after which no image is new: nothing encoded, and a price per shard, not per image."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from photos import thumbnail_folder
from plan import Plan
from results import Result, growth, interleaved, runs_of
from sides import Side
from towers import vit_tiny

CONDITIONS = (
    "The dataset has got one more caption and no more image. Seconds from the request to the committed manifest, with "
    "an empty cache, as on another machine. 0 images were encoded."
)


def measure(plan: Plan) -> Iterator[Result]:
    tower = vit_tiny(plan.root)
    shards, images = plan.num_shards, plan.images_per_small_shard
    cases = {"S shards": (shards, images), "S shards of 10 × images": (shards, images * 10)}
    cases["2 S shards"] = (2 * shards, images)
    with Side("frostline", sys.executable, "data/frostline_side.py", plan.all_cores) as side:
        side.ask("start_ray", root=str(plan.root), num_cores=len(plan.all_cores))
        asked = {name: _prepare(plan, side, tower, *case) for name, case in cases.items()}
        runs = {name: lambda name=name: side.ask("featurize_again", **asked[name]) for name in cases}
        answers = interleaved(plan.rounds, runs)
        for name, (num_shards, _) in cases.items():
            assert all(answer["num_shards"] == num_shards for answer in answers[name]), answers[name]
        sides = {
            f"{name} ({cases[name][0] * cases[name][1]} images)": runs_of(
                side, asked[name], "s", [answer["seconds"] for answer in found]
            )
            for name, found in answers.items()
        }
    once, more_images, more_shards = sides
    yield growth("no-change featurize, 10 × images", (more_images, once), sides, 1.2, CONDITIONS)
    yield growth("no-change featurize, 2 × shards", (more_shards, once), sides, 2.2, CONDITIONS)


def _prepare(plan: Plan, side: Side, tower: Path, num_shards: int, images_per_shard: int) -> dict[str, object]:
    """Featurize once, then add one line: another caption of the first image."""
    folder = thumbnail_folder(plan.root, num_shards * images_per_shard)
    lines = (folder / "lines.jsonl").read_text()
    first = lines.partition("\n")[0]
    (folder / "lines-and-one.jsonl").write_text(lines + first.replace("noise 0", "the first of them") + "\n")
    root = plan.stores / f"again-{num_shards}-{images_per_shard}"
    shutil.rmtree(root, ignore_errors=True)
    asked = {"root": str(root), "folder": str(folder), "images_per_shard": images_per_shard, "tower": str(tower)}
    side.ask("featurize_for", **asked)
    return asked
