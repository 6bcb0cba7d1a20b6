"""A featurize to be run in a process of its own, with its encoder in that process, which says what became of it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pyarrow.parquet  # noqa: F401  for the forge: a child imports nothing more
import torch

from data_prep import featurize as step
from data_prep import image_index
from data_prep.encoder import Encoder
from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig, Tower
from infra.errors import FrostlineError
from infra.outputs import ensure_output, read_manifest
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.record import git_commit
from infra.settings import ActorResources, Settings, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace

ACTORS = ActorResources(num_actors=1, rows_per_batch=2)
CONFIG = FeatureConfig()
torch.set_num_threads(1)
git_commit()


def warm_up(tower: str) -> None:
    """In the forge itself: what loading a tower imports."""
    Tower(Path(tower), CONFIG, 1, "cpu")


def run(folder: str, dataset_key: str, tower: str, answer: str) -> None:
    """Featurize a dataset of the store in `folder`. `{answer}.json` says the draft or the error, `{answer}.read` the
    image part of every unit that was begun."""
    told = os.open(f"{answer}.read", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def here(worker: type[Encoder], arguments: Mapping[str, Any], units: Mapping[str, Any], _: Any, keep: Any) -> None:
        encoder = worker(**arguments)
        for name, unit in units.items():
            os.write(told, f"{name}\n".encode())
            keep(name, encoder.run(unit))

    step.run_units = here  # type: ignore[assignment]
    image_index.NUM_READERS = 1  # several would do the same actions in another order each time
    store = LocalStore(Path(folder, "store"))
    profile = load_profile("laptop").model_copy(update={"featurize": ACTORS})
    workspace = Workspace(
        Settings(var_dir=Path(folder)), profile, store, PartCache(store, Path(folder, "cache")), Silent()
    )
    try:
        dataset = read_manifest(store, dataset_key)
        assert dataset is not None
        pinned = pin(PretrainedRef(folder=Path(tower)), None, workspace.cache)
        request = step.featurize_request(CONFIG, "demo", dataset, pinned.digest)
        made, _ = ensure_output(
            store, request, lambda attempt: step.featurize(CONFIG, dataset, pinned, attempt, workspace), {}
        )
        draft = made.draft.model_dump(mode="json")
        found = {"fingerprint": made.fingerprint, "draft": draft, "manifest": made.digest}
    except FrostlineError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    os.write(os.open(f"{answer}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), json.dumps(found).encode())
