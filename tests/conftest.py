"""Fixtures of the whole suite. Everything real, everything in temporary folders, servers on loopback only."""

import os
from pathlib import Path

import pytest

from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Profile, Settings, load_profile
from infra.store import LocalStore, Store
from infra.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, beside the checkout or where FROSTLINE_SHARED_DATA says."""
    folder = Path(os.environ.get("FROSTLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def profile() -> Profile:
    return load_profile("laptop", ["ingest.num_processes=1"])  # each takes half a second to start


@pytest.fixture
def workspace(tmp_path: Path, store: Store, profile: Profile) -> Workspace:
    settings = Settings(var_dir=tmp_path)
    return Workspace(settings, profile, store, PartCache(store, tmp_path / "cache"), Silent())
