"""Opening what a run works with: settings, profile, store and cache."""

import os
from collections.abc import Sequence
from pathlib import Path

from infra.part_cache import PartCache
from infra.progress import Progress
from infra.settings import Settings, load_profile
from infra.store import open_store, probe
from infra.workspace import Workspace


def open_workspace(
    profile: str,
    progress: Progress,
    store_uri: str | None = None,
    assignments: Sequence[str] = (),
    writable: bool = True,
) -> Workspace:
    """Raises ConfigError for a store that cannot be written or does not create conditionally.

    `writable=False` skips the probe, for commands that only read."""
    settings = Settings() if store_uri is None else Settings(store_uri=store_uri)
    os.environ.setdefault("PREFECT_HOME", str(settings.var_dir.absolute() / "prefect"))
    store = open_store(settings.store)
    if writable:
        probe(store)
    cache = PartCache(store, Path(settings.cache))
    return Workspace(settings, load_profile(profile, assignments), store, cache, progress)
