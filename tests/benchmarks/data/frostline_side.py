"""Frostline, called as a flow calls it: each step through `ensure_output`, into a local store.

Imports and the start of Ray are paid before the first command that is timed; what a step itself starts is in its time,
but for `featurize`, which tells when its actors were ready.
"""

import shutil
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from sides import Timed, serve

from data_prep import featurize as featurize_step
from data_prep.featurize import Encoder, featurize, featurize_request
from data_prep.ingest import IngestConfig, ingest, ingest_request
from data_prep.pretrained import PretrainedRef, digest_of
from data_prep.tower import FeatureConfig
from infra.outputs import Manifest, ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.ray import connected
from infra.settings import Settings, load_profile
from infra.store import open_store
from infra.workspace import Workspace

CONFIG = FeatureConfig()
ray = ExitStack()


def workspace_at(root: Path, cache_dir: Path | None = None, *assignments: str) -> Workspace:
    store = open_store(str(root / "store"))
    profile = load_profile("laptop", assignments)
    return Workspace(Settings(var_dir=root), profile, store, PartCache(store, cache_dir or root / "cache"), Silent())


def dataset_of(folder: str, images_per_shard: int, workspace: Workspace, lines: str = "lines.jsonl") -> Manifest:
    source = {"kind": "jsonl", "path": f"{folder}/{lines}", "images": f"{folder}/images"}
    config = IngestConfig.model_validate({"sources": [source], "images_per_shard": images_per_shard})
    request = ingest_request(config, "bench")
    return ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})[0]


def features_of(dataset: Manifest, tower: str, workspace: Workspace) -> Manifest:
    request = featurize_request(CONFIG, "bench", dataset, tower_digest(tower))
    return ensure_output(
        workspace.store, request, lambda attempt: featurize(CONFIG, dataset, Path(tower), attempt, workspace), {}
    )[0]


@cache
def tower_digest(tower: str) -> str:
    return digest_of(PretrainedRef(folder=Path(tower)), None)


def timed_ingest(folder: str, images_per_shard: int) -> dict[str, Any]:
    """Seconds from the recipe's source to the committed manifest, and the names of the quarantined files."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as scratch:
        workspace = workspace_at(Path(scratch))
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
        ready = [float(path.read_text()) for path in Path(told).iterdir()]
    assert len(ready) == num_cores, ready
    seconds = sum(ended - each for each in ready) / num_cores
    return {"seconds": seconds, "images": features.counts["encoded"]}


def encoder_that_tells(folder: str) -> type[Encoder]:
    """The step's own encoder; its actors write down when they are ready. Made here, so that it travels by value."""

    class Telling(Encoder):
        def __init__(self, **arguments: Any) -> None:
            import os
            import time
            from pathlib import Path

            super().__init__(**arguments)
            (Path(folder) / str(os.getpid())).write_text(str(time.time()))

    return Telling


def ingest_for(root: str, folder: str, images_per_shard: int) -> dict[str, Any]:
    """A dataset whose making is not timed."""
    return {"counts": dataset_of(folder, images_per_shard, workspace_at(Path(root))).counts}


def featurize_for(root: str, folder: str, images_per_shard: int, tower: str) -> dict[str, Any]:
    workspace = workspace_at(Path(root))
    return {"counts": features_of(dataset_of(folder, images_per_shard, workspace), tower, workspace).counts}


def featurize_again(root: str, folder: str, images_per_shard: int, tower: str) -> dict[str, Any]:
    """Seconds of a featurize after which nothing is new but a caption; the cache is empty, as on another machine."""
    warm = workspace_at(Path(root))
    dataset = dataset_of(folder, images_per_shard, warm, "lines-and-one.jsonl")
    warm.store.delete(featurize_request(CONFIG, "bench", dataset, tower_digest(tower)).manifest_key)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        workspace = workspace_at(Path(root), Path(scratch))
        with Timed() as timed:
            features = features_of(dataset, tower, workspace)
    return {"seconds": timed.seconds, "counts": features.counts, "num_shards": len(dataset.parts_of("images"))}


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
            },
            ("frostline", "ray", "torch", "transformers", "pyarrow", "pillow", "ImageHash", "numpy"),
        )
