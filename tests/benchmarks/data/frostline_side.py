"""Frostline, called as a flow calls it: each step through `ensure_output`, into a local store.

Imports and the start of Ray are paid before the first command that is timed; what a step itself starts is in its time,
but for `featurize`, which tells when its actors were ready.
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from sides import Timed, serve

from data_prep import featurize as featurize_step
from data_prep.features import FeatureStore
from data_prep.featurize import Encoder, featurize, featurize_request
from data_prep.ingest import IngestConfig, ingest, ingest_request
from data_prep.pins import Pin, pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig
from infra.outputs import Manifest, ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.ray import connected
from infra.settings import Settings, load_profile
from infra.store import open_store
from infra.workspace import Workspace

CONFIG = FeatureConfig()
IMAGES_PER_GATHER = 32
TIMES_AGAIN = 10
ray = ExitStack()


def workspace_at(root: Path, cache_dir: Path | None = None, *assignments: str) -> Workspace:
    store = open_store(str(root / "store"))
    profile = load_profile("laptop", assignments)
    return Workspace(Settings(var_dir=root), profile, store, PartCache(store, cache_dir or root / "cache"), Silent())


def dataset_of(folder: str, images_per_shard: int, workspace: Workspace, lines: str = "lines.jsonl") -> Manifest:
    source = {"kind": "jsonl", "path": f"{folder}/{lines}", "images": f"{folder}/images"}
    config = IngestConfig.model_validate({"sources": [source], "images_per_shard": images_per_shard})
    request = ingest_request(config, "bench", workspace.store)
    return ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})[0]


def features_of(dataset: Manifest, tower: str, workspace: Workspace) -> Manifest:
    pinned = pin_of(tower)
    request = featurize_request(CONFIG, "bench", dataset, pinned.digest)
    return ensure_output(
        workspace.store, request, lambda attempt: featurize(CONFIG, dataset, pinned, attempt, workspace), {}
    )[0]


@cache
def pin_of(tower: str) -> Pin:
    """Made once: a flow makes it once for many steps."""
    nowhere = Path(tower)  # neither store nor cache is asked about a local folder
    return pin(PretrainedRef(folder=Path(tower)), None, PartCache(open_store(str(nowhere)), nowhere))


def timed_ingest(folder: str, images_per_shard: int, num_processes: int) -> dict[str, Any]:
    """Seconds from the recipe's source to the committed manifest, and the names of the quarantined files."""
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as scratch:
        workspace = workspace_at(Path(scratch), None, f"ingest.num_processes={num_processes}")
        with Timed() as timed:
            dataset = dataset_of(folder, images_per_shard, workspace)
        quarantine = [pq.read_table(workspace.cache.path("ingest", p)) for p in dataset.parts_of("quarantine")]
        bad = sorted(uri for table in quarantine for uri in table.column("source_uri").to_pylist())
    return {
        "seconds": timed.seconds,
        "cpu_seconds": timed.cpu_seconds,
        "images": dataset.counts["images"],
        "bad": bad,
    }


def start_ray(root: str, num_cores: int) -> dict[str, Any]:
    profile = load_profile("laptop", [f"ray.num_cpus={num_cores}"])
    ray.enter_context(connected(profile.ray, Path(root) / "ray"))
    return {}


def timed_featurize(
    root: str, folder: str, images_per_shard: int, tower: str, images_per_batch: int, num_cores: int
) -> dict[str, Any]:
    """Seconds that an actor had, on average, from the moment it was ready to the committed manifest."""
    assignments = (f"featurize.num_actors={num_cores}", f"featurize.rows_per_batch={images_per_batch}")
    workspace = workspace_at(Path(root), None, *assignments)
    dataset = dataset_of(folder, images_per_shard, workspace)
    workspace.store.delete("featurize")
    with tempfile.TemporaryDirectory() as told:
        featurize_step.Encoder = encoder_that_tells(told)  # type: ignore[misc]
        features = features_of(dataset, tower, workspace)
        ended = time.time()
        actors = [json.loads(path.read_text()) for path in Path(told).iterdir()]
    assert len(actors) == num_cores, actors
    seconds = sum(ended - actor["ready"] for actor in actors) / num_cores
    cpu_seconds = sum(actor["cpu_seconds"] for actor in actors)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "images": features.counts["encoded"]}


def encoder_that_tells(folder: str) -> type[Encoder]:
    """The step's own encoder; its actors write down when they were ready, and the CPU time they have used since.
    Made here, so that it travels by value."""

    class Telling(Encoder):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.ready, self.cpu_seconds = time.time(), time.process_time()

        def run(self, unit: Any) -> Any:
            found = super().run(unit)
            told = {"ready": self.ready, "cpu_seconds": time.process_time() - self.cpu_seconds}
            (Path(folder) / str(os.getpid())).write_text(json.dumps(told))
            return found

    return Telling


def ingest_for(root: str, folder: str, images_per_shard: int) -> dict[str, Any]:
    """A dataset whose making is not timed."""
    return {"counts": dataset_of(folder, images_per_shard, workspace_at(Path(root))).counts}


def featurize_for(root: str, folder: str, images_per_shard: int, tower: str) -> dict[str, Any]:
    workspace = workspace_at(Path(root))
    return {"counts": features_of(dataset_of(folder, images_per_shard, workspace), tower, workspace).counts}


def featurize_again(root: str, folder: str, images_per_shard: int, tower: str) -> dict[str, Any]:
    """Seconds of a featurize after which nothing is new but a caption; the cache is empty, as on another machine.
    The mean of several, since each takes some milliseconds."""
    warm = workspace_at(Path(root))
    dataset = dataset_of(folder, images_per_shard, warm, "lines-and-one.jsonl")
    seconds = 0.0
    for _ in range(TIMES_AGAIN):
        warm.store.delete(featurize_request(CONFIG, "bench", dataset, pin_of(tower).digest).manifest_key)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            workspace = workspace_at(Path(root), Path(scratch))
            with Timed() as timed:
                features = features_of(dataset, tower, workspace)
        assert features.counts["encoded"] == 0, features.counts
        seconds += timed.seconds
    num_shards = len(dataset.parts_of("images"))
    return {"seconds": seconds / TIMES_AGAIN, "num_shards": num_shards}


def read_features(root: str, folder: str, images_per_shard: int, tower: str) -> dict[str, Any]:
    """Read every feature twice: into an empty cache and verified, image by image; then from the cache, in random order.
    Then drop the cache's pages, and ask for one image of each part."""
    warm = workspace_at(Path(root))
    features = features_of(dataset_of(folder, images_per_shard, warm), tower, warm)
    parts = features.parts_of("features")
    stored = {part.digest: pq.read_table(warm.cache.path("featurize", part)) for part in parts}
    image_ids = [image_id for table in stored.values() for image_id in table.column("image_id").to_pylist()]
    one_each = [table.column("image_id")[len(table) // 3].as_py() for table in stored.values()]
    shuffled = random.Random(0).sample(image_ids, len(image_ids))
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        cache = workspace_at(Path(root), Path(scratch)).cache
        with Timed() as first:
            opened = FeatureStore(features, cache)
            num_bytes = sum(found.nbytes for found in _batches(opened, image_ids))
        with Timed() as cached:
            opened = FeatureStore(features, cache)
            assert num_bytes == sum(found.nbytes for found in _batches(opened, shuffled))
        _check_bits(opened, stored)
        del opened  # pages of a mapped file stay
        _drop_pages(Path(scratch))
        before = _bytes_from_disk()
        FeatureStore(features, cache).gather(one_each)
        from_disk = _bytes_from_disk() - before
    return {
        "gigabytes": num_bytes / 1e9,
        "first": {"seconds": first.seconds, "cpu_seconds": first.cpu_seconds},
        "cached": {"seconds": cached.seconds, "cpu_seconds": cached.cpu_seconds},
        "bytes_from_disk": from_disk,
        "bytes_asked": num_bytes // len(image_ids) * len(one_each),
        "bytes_of_parts": sum(part.size_bytes for part in parts),
    }


def _batches(opened: FeatureStore, image_ids: list[str]) -> Iterator[Any]:
    starts = range(0, len(image_ids), IMAGES_PER_GATHER)
    return (opened.gather(image_ids[start : start + IMAGES_PER_GATHER]) for start in starts)


def _check_bits(opened: FeatureStore, stored: dict[str, Any]) -> None:
    for table in stored.values():
        for image_id, expected in zip(
            *(table.column(name).to_pylist() for name in ("image_id", "features")), strict=True
        ):
            assert opened.gather([image_id]).tobytes() == expected, image_id


def _drop_pages(folder: Path) -> None:
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


if __name__ == "__main__":
    with ray:
        serve(
            {
                "ingest": timed_ingest,
                "ingest_for": ingest_for,
                "start_ray": start_ray,
                "featurize": timed_featurize,
                "featurize_for": featurize_for,
                "featurize_again": featurize_again,
                "read_features": read_features,
            },
            ("frostline", "ray", "torch", "transformers", "pyarrow", "pillow", "ImageHash", "numpy"),
        )
