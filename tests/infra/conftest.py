"""Stores of both kinds."""

from pathlib import Path

import pytest

from infra.store import LocalStore, Store, open_store


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store that Frostline accepts."""
    if request.param == "local":
        return LocalStore(tmp_path / "any store")
    return open_store(request.getfixturevalue("s3"))
