"""Featurize: every image through the tower once, features beside their image, a death costs one shard."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from featurizing import assert_features_are_those_of_each_image_alone, encode, images_of, request_of
from stored_parts import store_images

from data_prep import featurize as step
from data_prep.encoder import Unit
from data_prep.features import FeatureStore
from data_prep.tower import FeatureConfig
from infra.errors import DataError
from infra.outputs import Manifest, find_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.repair import repair_store
from infra.settings import ActorResources
from infra.store import LocalStore, Store
from infra.verify import verify_store
from infra.workspace import Workspace

BATCH_SIZE = 4


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    actors = ActorResources(num_actors=2, rows_per_batch=BATCH_SIZE, max_restarts=1)
    return replace(workspace, profile=workspace.profile.model_copy(update={"featurize": actors}))


@pytest.fixture
def dataset_of(make_picture: Callable[[int], bytes], store: Store) -> Callable[..., Manifest]:
    """dataset_of(n) -> the first n pictures in shards of 4."""

    def make(num_images: int) -> Manifest:
        pictures = [make_picture(number) for number in range(num_images)]
        return store_images(store, [pictures[start : start + 4] for start in range(0, num_images, 4)])

    return make


@pytest.fixture
def units_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Encode in this process instead of in actors; the list tells how many images each unit had."""
    sizes: list[int] = []

    def here(worker: type, arguments: Mapping[str, Any], units: Mapping[str, Any], _: object, keep: Any) -> None:
        encoder = worker(**arguments)
        for name, unit in units.items():
            sizes.append(unit.num_images)
            keep(name, encoder.run(unit))

    monkeypatch.setattr(step, "run_units", here)
    return sizes


def with_digest(dataset: Manifest, digest: str) -> Manifest:
    """The same shards of images under other annotations."""
    identity = {**dataset.identity, "dataset_digest": digest}
    return dataset.model_copy(update={"draft": dataset.draft.model_copy(update={"identity": identity})})


def test_features_stay_next_to_their_image(
    units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace
) -> None:
    dataset = dataset_of(10)
    features = encode(dataset, vit_dir, workspace)
    assert features.counts == {"rows_out": 10, "encoded": 10, "reused": 0}
    assert units_run == [4, 4, 2]
    assert (features.facts["num_patches"], features.facts["vision_width"]) == (4, 16)
    assert_features_are_those_of_each_image_alone(features, dataset, vit_dir, workspace)


def test_a_second_dataset_encodes_only_what_is_new(
    units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace
) -> None:
    encode(dataset_of(10), vit_dir, workspace)
    units_run.clear()
    grown = dataset_of(13)
    features = encode(grown, vit_dir, workspace)
    assert features.counts == {"rows_out": 13, "encoded": 3, "reused": 10}
    assert sum(units_run) == 3
    assert_features_are_those_of_each_image_alone(features, grown, vit_dir, workspace)
    units_run.clear()
    smaller = encode(dataset_of(6), vit_dir, workspace)
    assert smaller.counts == {"rows_out": 6, "encoded": 0, "reused": 6}
    assert units_run == []


@pytest.mark.parametrize("num_new", [0, 1], ids=["none", "one in a hundred"])
def test_as_many_images_are_encoded_as_are_new_and_their_bytes_are_those_from_scratch(
    num_new: int, units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace
) -> None:
    encode(dataset_of(100), vit_dir, workspace)
    units_run.clear()
    grown = with_digest(dataset_of(100 + num_new), "a" * 64)  # other rows, so that it is another output
    features = encode(grown, vit_dir, workspace)
    assert features.counts == {"rows_out": 100 + num_new, "encoded": num_new, "reused": 100}
    assert sum(units_run) == num_new
    assert_features_are_those_of_each_image_alone(features, grown, vit_dir, workspace)


def test_the_same_images_in_another_dataset_are_settled_by_their_parts_without_reading_an_id(
    units_run: list[int],
    make_picture: Callable[[int], bytes],
    dataset_of: Callable[..., Manifest],
    vit_dir: Path,
    workspace: Workspace,
    tmp_path: Path,
) -> None:
    """Every index part is taken away; a reader of ids would name it."""
    first = encode(dataset_of(10), vit_dir, workspace)
    units_run.clear()
    for part in [*dataset_of(10).parts_of("image_index"), *first.parts_of("feature_index")]:
        step_name = "ingest" if part.kind == "image_index" else "featurize"
        workspace.store.delete(f"{step_name}/parts/{part.digest}")
    other = with_digest(dataset_of(10), "d" * 64)
    nothing_cached = replace(workspace, cache=PartCache(workspace.store, tmp_path / "nothing cached"))
    second = encode(other, vit_dir, nothing_cached)
    assert second.fingerprint != first.fingerprint
    assert second.counts == {"rows_out": 10, "encoded": 0, "reused": 10}
    assert second.parts == first.parts
    assert units_run == []


def test_images_that_lie_in_other_shards_are_found_by_their_ids(
    units_run: list[int],
    make_picture: Callable[[int], bytes],
    dataset_of: Callable[..., Manifest],
    vit_dir: Path,
    workspace: Workspace,
) -> None:
    """Shown to fail: with every feature part taken for a whole image part, image 9 is missing from the last output."""
    encode(dataset_of(10), vit_dir, workspace)
    units_run.clear()
    pictures = [make_picture(number) for number in range(12)]
    otherwise = store_images(workspace.store, [pictures[6:9], pictures[1:6], pictures[9:12]])
    features = encode(otherwise, vit_dir, workspace)
    assert features.counts == {"rows_out": 11, "encoded": 2, "reused": 9}
    assert units_run == [2]
    assert_features_are_those_of_each_image_alone(features, otherwise, vit_dir, workspace)
    alone = store_images(workspace.store, [pictures[9:12]])
    features = encode(alone, vit_dir, workspace)
    assert features.counts == {"rows_out": 3, "encoded": 0, "reused": 3}
    assert_features_are_those_of_each_image_alone(features, alone, vit_dir, workspace)


def test_other_bytes_of_the_same_images_share_nothing(
    units_run: list[int], make_picture: Callable[[int], bytes], vit_dir: Path, workspace: Workspace
) -> None:
    """The dataset re-encoded its images: their ids are still those of the source bytes."""
    pictures = [[make_picture(0), make_picture(1)]]
    first = encode(store_images(workspace.store, pictures), vit_dir, workspace)
    second = encode(store_images(workspace.store, pictures, reencode_digest="e" * 64), vit_dir, workspace)
    assert first.fingerprint != second.fingerprint
    assert second.counts == {"rows_out": 2, "encoded": 2, "reused": 0}


def test_views_lie_beside_their_image_and_are_the_same_from_scratch(
    units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace, tmp_path: Path
) -> None:
    config = FeatureConfig(pooling="mean", views=2, view_seed=5)
    dataset = dataset_of(6)
    features = encode(dataset, vit_dir, workspace, config=config)
    assert features.counts == {"rows_out": 6, "encoded": 6, "reused": 0}
    stored = FeatureStore(features, workspace.cache)
    assert stored.views == ["original", "augmented-1", "augmented-2"]
    ids = list(images_of(dataset, workspace))
    plain = FeatureStore(encode(dataset, vit_dir, workspace, config=FeatureConfig(pooling="mean")), workspace.cache)
    np.testing.assert_array_equal(stored.gather(ids), plain.gather(ids))
    different = {stored.gather([image_id], view).tobytes() for image_id in ids for view in stored.views}
    assert len(different) == 18
    fresh = LocalStore(tmp_path / "fresh")
    pictures = list(images_of(dataset, workspace).values())
    other_shards = store_images(fresh, [pictures[::-1]])
    scratch = replace(workspace, store=fresh, cache=PartCache(fresh, tmp_path / "c"))
    again = FeatureStore(encode(other_shards, vit_dir, scratch, config=config), scratch.cache)
    for view in stored.views:
        np.testing.assert_array_equal(again.gather(ids, view), stored.gather(ids, view))


def test_another_tower_shares_nothing(
    units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, regnet_dir: Path, workspace: Workspace
) -> None:
    dataset = dataset_of(5)
    encode(dataset, vit_dir, workspace)
    other = encode(dataset, regnet_dir, workspace, tower_digest="b" * 64)
    assert other.counts["encoded"] == 5
    assert_features_are_those_of_each_image_alone(other, dataset, regnet_dir, workspace)


class StopsAfter(Silent):
    """A person who interrupts after so many shards."""

    def __init__(self, num_shards: int) -> None:
        self.left = num_shards

    def advance(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_stopped_featurize_commits_nothing_and_resumes_behind_its_shards(
    units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace, tmp_path: Path
) -> None:
    dataset = dataset_of(10)
    with pytest.raises(KeyboardInterrupt):
        encode(dataset, vit_dir, replace(workspace, progress=StopsAfter(2)))
    assert find_output(workspace.store, request_of(dataset)) is None
    units_run.clear()
    resumed = encode(dataset, vit_dir, workspace)
    assert units_run == [2]
    assert resumed.counts["encoded"] == 10
    fresh = LocalStore(tmp_path / "fresh")
    shutil.copytree(workspace.store.folder / "ingest", fresh.folder / "ingest")  # type: ignore[attr-defined]
    undisturbed = encode(dataset, vit_dir, replace(workspace, store=fresh, cache=PartCache(fresh, tmp_path / "c")))
    assert resumed.draft == undisturbed.draft


def test_a_noted_shard_that_is_gone_is_encoded_again(
    units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace
) -> None:
    dataset = dataset_of(10)
    with pytest.raises(KeyboardInterrupt):
        encode(dataset, vit_dir, replace(workspace, progress=StopsAfter(2)))
    units_run.clear()
    workspace.store.delete(workspace.store.list("featurize/parts")[0])
    features = encode(dataset, vit_dir, workspace)
    assert units_run == [4, 2]
    assert_features_are_those_of_each_image_alone(features, dataset, vit_dir, workspace)


@pytest.mark.parametrize("kind", ["features", "feature_index"])
def test_after_a_repair_exactly_the_images_of_the_damaged_part_are_encoded(
    kind: str, units_run: list[int], dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace
) -> None:
    """Shown to fail by leaving what remains of an output out of the earlier ones."""
    dataset = dataset_of(10)
    before = encode(dataset, vit_dir, workspace)
    damaged = max(before.parts_of(kind), key=lambda part: part.num_rows)
    workspace.store.write(f"featurize/parts/{damaged.digest}", b"damaged")
    repair_store(workspace.store, verify_store(workspace.store), workspace.cache)
    assert find_output(workspace.store, request_of(dataset)) is None
    units_run.clear()
    after = encode(dataset, vit_dir, workspace)
    assert units_run == [4]
    assert after.counts == {"rows_out": 10, "encoded": 4, "reused": 6}
    assert after.parts == before.parts
    assert verify_store(workspace.store).damaged == []


def test_features_that_are_not_finite_name_their_image(
    dataset_of: Callable[..., Manifest], vit_dir: Path, workspace: Workspace, tmp_path: Path, units_run: list[int]
) -> None:
    """One image of the shard overflows float16; nothing is stored."""
    dataset = dataset_of(3)
    image_ids = list(images_of(dataset, workspace))
    from safetensors.torch import load_file, save_file

    huge = Path(shutil.copytree(vit_dir, tmp_path / "huge"))
    weights = load_file(huge / "model.safetensors")
    weights["layernorm.weight"] *= 1e6
    save_file(weights, huge / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=image_ids[0][:12]):
        encode(dataset, huge, workspace, tower_digest="c" * 64)
    assert workspace.store.list("featurize") == []


def test_another_version_of_the_encoding_shares_nothing(
    units_run: list[int],
    dataset_of: Callable[..., Manifest],
    vit_dir: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = dataset_of(5)
    first = encode(dataset, vit_dir, workspace)
    for module in ("tower", "featurize"):
        monkeypatch.setattr(f"data_prep.{module}.ENCODE_VERSION", 99)
    second = encode(dataset, vit_dir, workspace)
    assert second.counts["encoded"] == 5
    assert second.identity["encoder_key"] != first.identity["encoder_key"]


def test_other_images_of_a_part_are_another_unit(dataset_of: Callable[..., Manifest]) -> None:
    """A note of fewer images must not settle more: after a repair a part may have more to encode than before."""
    (part, *_) = dataset_of(4).parts_of("images")
    names = [Unit(part, ids).name for ids in (None, ["a" * 64], ["a" * 64, "b" * 64], ["b" * 64, "a" * 64])]
    assert names[2] == names[3]
    assert len(set(names)) == 3
