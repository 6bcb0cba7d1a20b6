"""Ingest, then featurize on Ray: what `frostline run --until featurize` does, without half a minute to start in.

python pipeline_program.py FOLDER SOURCES_JSON TOWER_DIR says `ready` when it begins, and in the end both drafts.
"""

import json
import sys
from pathlib import Path

from data_prep import featurize as featurize_step
from data_prep.featurize import featurize_request
from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig
from infra.outputs import ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.ray import connected
from infra.settings import ActorResources, RayResources, Settings, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace

ACTORS = ActorResources(num_actors=2, rows_per_batch=2)
RAY = RayResources(address="local", num_cpus=2, object_store_memory_bytes=100 * 2**20)


def main() -> None:
    folder, sources, tower = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    print("ready", flush=True)
    store = LocalStore(folder / "store")
    profile = load_profile("laptop").model_copy(update={"featurize": ACTORS})
    workspace = Workspace(Settings(var_dir=folder), profile, store, PartCache(store, folder / "cache"), Silent())
    config = IngestConfig.model_validate({"sources": sources, "images_per_shard": 3, "max_quarantined_fraction": 1})
    request = ingest_request(config, "demo", store)
    dataset, _ = ensure_output(store, request, lambda attempt: ingest(config, attempt, workspace), {})
    pinned, features = pin(PretrainedRef(folder=tower), None, workspace.cache), FeatureConfig()
    with connected(RAY, folder / "logs"):
        made, _ = ensure_output(
            store,
            featurize_request(features, "demo", dataset, pinned.digest),
            lambda attempt: featurize_step.featurize(features, dataset, pinned, attempt, workspace),
            {},
        )
    drafts = {found.step: found.draft.model_dump(mode="json") for found in (dataset, made)}
    print(json.dumps(drafts), flush=True)


if __name__ == "__main__":
    main()
