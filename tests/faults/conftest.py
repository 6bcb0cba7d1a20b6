"""Two commands to be disturbed: an ingest and a featurize, each going on from an earlier output."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fault_cases import Case
from feeds import earlier_feeds, later_feeds
from forge import Forge
from stored_parts import noise, store_images
from tiny_towers import save_tower

from infra.outputs import OutputRequest, commit
from infra.ray import connected
from infra.settings import RayResources
from infra.store import LocalStore


@pytest.fixture(scope="session")
def ingest_forge() -> Iterator[Forge]:
    with Forge("ingest_program") as forge:
        yield forge


@pytest.fixture(scope="session")
def continued(ingest_forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """An ingest that continues an earlier dataset: shards lose rows, and four are new."""
    folder = tmp_path_factory.mktemp("ingest")
    assert ingest_forge.run("run", str(folder / "start"), earlier_feeds(folder), str(folder / "earlier")) == 0
    shutil.rmtree(folder / "start" / "cache")
    case = Case(ingest_forge, [later_feeds(folder)], folder / "start", folder, "ingest")
    counts = case.expected["draft"]["counts"]
    assert (counts["rows_in"], counts["duplicates"], counts["quarantined"], counts["images"]) == (27, 6, 4, 13)
    assert {"upload part", "journal note", "manifest create", "log append", "journal delete"} <= {
        point.action for point in case.points
    }
    return case


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("tower")
    save_tower("vit", folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def featurize_forge(tower: Path) -> Iterator[Forge]:
    with Forge("featurize_program", str(tower)) as forge:
        yield forge


def store_dataset(store: LocalStore, shards: Sequence[Sequence[int]]) -> str:
    """Committed like one of ingest; its key."""
    made = store_images(store, [[noise(number) for number in shard] for shard in shards])
    request = OutputRequest(made.step, made.step_version, made.name, made.config, made.inputs)
    commit(store, request, made)
    return request.manifest_key


@pytest.fixture(scope="session")
def grown(featurize_forge: Forge, tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A featurize of three image parts, of which one is settled, one new and one known in part."""
    folder = tmp_path_factory.mktemp("featurize")
    store = LocalStore(folder / "start" / "store")
    first = store_dataset(store, [[0, 1, 2], [3]])
    assert featurize_forge.run("run", str(folder / "start"), first, str(tower), str(folder / "earlier")) == 0
    shutil.rmtree(folder / "start" / "cache")
    second = store_dataset(store, [[0, 1, 2], [3, 4, 5], [6, 7]])
    case = Case(featurize_forge, [second, str(tower)], folder / "start", folder, "featurize")
    assert case.expected["draft"]["counts"] == {"rows_out": 8, "encoded": 4, "reused": 4}
    return case


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    resources = RayResources(num_cpus=2, object_store_memory_bytes=100 * 2**20)
    with connected(resources, tmp_path_factory.mktemp("ray")):
        yield
