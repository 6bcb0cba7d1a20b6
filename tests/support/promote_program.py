"""The commands about who serves, for processes that are killed or race.

python promote_program.py STORE MLFLOW MODEL FOLDER RACER ROUNDS VERSIONS… promotes one of the versions in each round
and prints the numbers of the entries that it won, as JSON."""

import json
import sys
import time
from pathlib import Path

from infra.errors import PlatformError
from infra.store import open_store
from infra.tracking import Registry
from training.candidate import ModelPlace
from training.champion import mirror
from training.promoting import Change
from training.promoting import promote as promote_version


def warm_up(_: str) -> None:
    """Imports what a promotion does, so that a forked child need not."""
    import mlflow.store.artifact.artifact_repository_registry
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    import training.version  # noqa: F401


def promote(store_uri: str, mlflow_uri: str, model: str, version: str) -> None:
    promote_version(_place(store_uri, mlflow_uri, model), version, "because", force=True)


def look(store_uri: str, mlflow_uri: str, model: str) -> None:
    """What every command does that changes who serves, before anything else."""
    mirror(_place(store_uri, mlflow_uri, model))


def try_to_promote(place: ModelPlace, version: str) -> Change | None:
    """None where another process was faster."""
    try:
        return promote_version(place, version, "because", force=True)
    except PlatformError as error:
        if "another process changed the champion a moment ago" not in str(error):
            raise
        return None


def _place(store_uri: str, mlflow_uri: str, model: str) -> ModelPlace:
    return ModelPlace(open_store(store_uri), Registry(mlflow_uri), model)


def main() -> None:
    store_uri, mlflow_uri, model, folder, racer, rounds, *versions = sys.argv[1:]
    place = _place(store_uri, mlflow_uri, model)
    won = []
    for number in range(int(rounds)):
        (Path(folder) / f"ready-{number}-{racer}").touch()
        while not (Path(folder) / f"go-{number}").exists():
            time.sleep(0.001)
        made = try_to_promote(place, versions[(int(racer) + number) % len(versions)])
        won += [made.entry.number] if made and made.changed else []
    (Path(folder) / f"ready-{rounds}-{racer}").touch()
    print(json.dumps(won))


if __name__ == "__main__":
    main()
