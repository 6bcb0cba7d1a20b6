"""Two Ray nodes on this machine that share the store and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from featurizing import assert_features_are_those_of_each_image_alone, encode
from stored_parts import noise, store_images
from tiny_towers import save_tower
from transformers import ViTImageProcessorPil

from data_prep.pins import Pin, pin
from data_prep.pretrained import PretrainedRef
from infra.outputs import Draft, OutputRequest, ensure_output, upload_part
from infra.ray import connected
from infra.settings import ActorResources, RayResources
from infra.workspace import Workspace

pytestmark = pytest.mark.slow
NODES = ("one", "two")


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Cache folder by node, of a cluster that RAY_ADDRESS names."""
    from ray.cluster_utils import Cluster

    caches = {name: tmp_path / f"cache of node {name}" for name in NODES}
    cluster = Cluster()
    try:
        for cache in caches.values():
            cluster.add_node(
                num_cpus=1,
                object_store_memory=100 * 2**20,
                include_dashboard=False,
                env_vars={"FROSTLINE_CACHE_DIR": str(cache)},
            )
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with connected(RayResources(), tmp_path / "logs"):
            yield caches
    finally:
        cluster.shutdown()


def tower_in_the_store(workspace: Workspace, folder: Path) -> Pin:
    """A tower as the `base` step leaves one: parts of an output, and no folder that a node could read."""
    save_tower("vit", folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    parts = [
        upload_part(workspace.store, "base", path, "file", 0, name=f"vision_tower/{path.name}")
        for path in sorted(folder.iterdir())
    ]
    draft = Draft(parts=parts, identity={"vision_tower_digest": "v" * 64})
    base, _ = ensure_output(workspace.store, OutputRequest("base", 1, "demo", {}, {}), lambda _: draft, {})
    return pin(PretrainedRef(base="vision_tower"), base, workspace.cache)


def test_actors_on_both_nodes_fetch_tower_and_images_into_their_own_cache(
    nodes: dict[str, Path], workspace: Workspace, tmp_path: Path
) -> None:
    """With the driver's cache folder for all, both nodes' own folders would stay empty."""
    actors = ActorResources(num_actors=2, rows_per_batch=2)
    workspace = replace(workspace, profile=workspace.profile.model_copy(update={"featurize": actors}))
    tower_dir = tmp_path / "made"
    tower = tower_in_the_store(workspace, tower_dir)
    pictures = [noise(number) for number in range(24)]
    dataset = store_images(workspace.store, [pictures[start : start + 2] for start in range(0, 24, 2)])
    features = encode(dataset, tower, workspace)
    assert features.counts == {"rows_out": 24, "encoded": 24, "reused": 0}

    image_parts = {part.digest for part in dataset.parts_of("images")}
    fetched = {name: image_parts & {path.name for path in (cache / "parts").iterdir()} for name, cache in nodes.items()}
    assert all(fetched.values()), "each node encoded something"
    assert fetched["one"] | fetched["two"] == image_parts
    assert fetched["one"].isdisjoint(fetched["two"])
    for cache in nodes.values():
        assert len(list(cache.glob("folders/*/vision_tower/model.safetensors"))) == 1
    assert not image_parts & {path.name for path in workspace.cache.folder.glob("parts/*")}
    assert_features_are_those_of_each_image_alone(features, dataset, tower_dir, workspace)
