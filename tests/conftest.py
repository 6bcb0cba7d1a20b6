"""Fixtures of the whole suite. Everything real, everything in temporary folders, servers on loopback only."""

import ctypes
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from moto_s3 import BUCKET, aws_variables, moto_s3
from tiny_run import TinyRun

from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Profile, Settings, load_profile
from infra.store import LocalStore, Store
from infra.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parent.parent
pytest.register_assert_rewrite("fault_cases")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def pytest_configure() -> None:
    """Towers and trainings in this process get the memory that the product gives to its workers (`infra.ray`): half of
    their time went into page faults. What a test starts has its own."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The whole fault programme and the long runs are there only where they are asked for by their markers."""
    unasked = {"faults", "long"} - set(re.findall(r"\w+", config.getoption("-m")))
    left = [item for item in items if any(item.get_closest_marker(marker) for marker in unasked)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


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
def tiny_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> TinyRun:
    """One for all processes of pytest-xdist. Only one file of tests may go on in its `var`."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "tiny_run"
    with FileLock(folder.with_suffix(".lock")):
        return TinyRun.of(folder)


@pytest.fixture(scope="session")
def profile() -> Profile:
    return load_profile("laptop", ["ingest.num_processes=1"])  # each takes half a second to start


@pytest.fixture
def workspace(tmp_path: Path, store: Store, profile: Profile) -> Workspace:
    settings = Settings(var_dir=tmp_path)
    return Workspace(settings, profile, store, PartCache(store, tmp_path / "cache"), Silent())


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server of this session."""
    with moto_s3(tmp_path_factory.mktemp("s3") / "server.log") as url:
        yield url


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh prefix; the AWS variables point to it, as an operator would set them."""
    import boto3

    for name, value in aws_variables(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
