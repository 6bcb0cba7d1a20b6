"""Reading features back: bit for bit, verified once, only what was asked for.

Shapes: N rows, P patches, V vision width.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored_parts import made_by, store_features

from data_prep import feature_parts, features
from data_prep.feature_parts import FeatureWriter
from data_prep.features import FeatureStore
from data_prep.image_index import ImageIndex, digests_of
from infra.errors import DataError, IntegrityError
from infra.outputs import Draft, Manifest, Part
from infra.part_cache import PartCache
from infra.store import LocalStore

NUM_PATCHES, VISION_WIDTH = 3, 8
ROW_BYTES = NUM_PATCHES * VISION_WIDTH * 2
MakeFeatures = Callable[..., Manifest]


def image_id(number: int) -> str:
    return f"{number:062x}00"  # digests that end in zeros are digests too


def values(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(NUM_PATCHES, VISION_WIDTH)).astype(np.float16)


@pytest.fixture
def make_features(store: LocalStore) -> MakeFeatures:
    """make_features(4, 3) -> an output of parts with 4 and 3 images, numbered from 0."""

    def make(*sizes: int) -> Manifest:
        parts: list[Part] = []
        first = 0
        for size in sizes:
            numbers = range(first, first + size)
            parts += store_features(store, [image_id(n) for n in numbers], np.stack([values(n) for n in numbers]))
            first += size
        return described(made_by("featurize", parts, {}), ["original"])

    return make


def described(manifest: Manifest, views: list[str]) -> Manifest:
    facts = {"num_patches": NUM_PATCHES, "vision_width": VISION_WIDTH, "views": views}
    return manifest.model_copy(update={"draft": Draft(parts=manifest.parts, identity={}, facts=facts)})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(offset, bytes) of everything read from feature files in place."""
    found: list[tuple[int, int]] = []
    real = os.preadv

    def spy(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        found.append((offset, sum(buffer.nbytes for buffer in buffers)))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    return found


def path_in(cache: PartCache, part: Part) -> Path:
    return cache.folder / "parts" / part.digest


def test_gather_keeps_the_order_asked_and_names_what_is_missing(
    make_features: MakeFeatures, store: LocalStore, tmp_path: Path
) -> None:
    stored = FeatureStore(make_features(4, 1, 5), PartCache(store, tmp_path / "cache"))
    assert len(stored) == 10
    asked = [9, 0, 5, 5, 3]
    gathered_BPV = stored.gather([image_id(number) for number in asked])
    np.testing.assert_array_equal(gathered_BPV, np.stack([values(number) for number in asked]))
    missing = "f" * 64
    assert missing not in stored
    assert image_id(9) in stored
    assert stored.missing([image_id(3), missing, image_id(9), missing]) == [missing, missing]
    with pytest.raises(DataError, match=f"{missing[:12]}… has no features among 10 images"):
        stored.gather([image_id(0), missing])
    with pytest.raises(DataError, match="view 'augmented-1' was asked for; expected one of original"):
        stored.gather([image_id(0)], view="augmented-1")


def test_every_parquet_reader_finds_the_same_bytes(
    make_features: MakeFeatures, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over several row groups, which batches do not respect."""
    monkeypatch.setattr(feature_parts, "ROW_GROUP_BYTES", 3 * ROW_BYTES + 1)
    cache = PartCache(store, tmp_path / "cache")
    with_groups = make_features(10)
    (part,) = with_groups.parts_of("features")
    path = cache.path("featurize", part)
    assert [pq.read_metadata(path).row_group(number).num_rows for number in range(4)] == [3, 3, 3, 1]
    table = pq.read_table(path)
    assert table.column("image_id").to_pylist() == [image_id(number) for number in range(10)]
    assert table.column("features").to_pylist() == [values(number).tobytes() for number in range(10)]
    in_place_BPV = FeatureStore(with_groups, cache).gather([image_id(number) for number in range(10)])
    assert in_place_BPV.tobytes() == b"".join(values(number).tobytes() for number in range(10))


def test_views_are_found_by_name(store: LocalStore, tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, NUM_PATCHES, VISION_WIDTH)
    views = ["original", "augmented-1"]
    for number in range(0, 6, 2):  # a batch ends between two views of an image
        ids = [image_id(row // 2) for row in range(number, number + 2)]
        writer.write(ids, views, np.stack([values(row) for row in range(number, number + 2)]))
    stored = FeatureStore(
        described(made_by("featurize", list(writer.upload(store, {})), {}), views), PartCache(store, tmp_path / "cache")
    )
    assert (len(stored), stored.views) == (3, views)
    ids = [image_id(number) for number in (2, 0, 1)]
    np.testing.assert_array_equal(stored.gather(ids), np.stack([values(row) for row in (4, 0, 2)]))
    np.testing.assert_array_equal(stored.gather(ids, "augmented-1"), np.stack([values(row) for row in (5, 1, 3)]))


def test_a_part_is_fetched_when_its_first_image_is_asked_for_and_then_only_the_images_are_read(
    make_features: MakeFeatures, store: LocalStore, tmp_path: Path, reads: list[tuple[int, int]]
) -> None:
    manifest = make_features(4, 3, 5)
    cache = PartCache(store, tmp_path / "another machine")
    stored = FeatureStore(manifest, cache)
    parts = manifest.parts_of("features")
    assert not any(path_in(cache, part).exists() for part in parts)
    reads.clear()
    stored.gather([image_id(5)])
    assert [path_in(cache, part).exists() for part in parts] == [False, True, False]
    shutil.rmtree(store.folder)
    stored.gather([image_id(6), image_id(4)])
    data = path_in(cache, parts[1]).read_bytes()
    found = [data[offset : offset + size] for offset, size in reads]
    assert found == [values(number).tobytes() for number in (5, 6, 4)]
    assert len(FeatureStore(manifest, cache)) == 12, "and a new start needs no store"


def test_damaged_features_are_never_used(make_features: MakeFeatures, store: LocalStore, tmp_path: Path) -> None:
    manifest = make_features(4)
    part, index = manifest.parts
    for damaged, read in ((part, lambda stored: stored.gather([image_id(0)])), (index, len)):
        path = store.folder / "featurize" / "parts" / damaged.digest
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=damaged.digest):
            read(FeatureStore(manifest, PartCache(store, tmp_path / damaged.kind)))
        path.write_bytes(whole)


def test_a_cached_file_that_was_cut_short_is_an_error_and_not_a_crash(
    make_features: MakeFeatures, store: LocalStore, tmp_path: Path
) -> None:
    manifest = make_features(4)
    cache = PartCache(store, tmp_path / "cache")
    stored = FeatureStore(manifest, cache)
    stored.gather([image_id(0)])
    path = path_in(cache, manifest.parts_of("features")[0])
    os.truncate(path, 300)
    with pytest.raises(IntegrityError, match=r"of row 3; expected 48"):
        stored.gather([image_id(3)])


def test_a_part_that_cannot_be_read_in_place_is_not_uploaded(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pages instead of one, as another Parquet library's default might make them."""
    monkeypatch.setattr(feature_parts, "ONE_PAGE", 2)
    writer = FeatureWriter(tmp_path, NUM_PATCHES, VISION_WIDTH)
    writer.write([image_id(n) for n in range(4)], ["original"] * 4, np.stack([values(n) for n in range(4)]))
    with pytest.raises(AssertionError, match="not one plain page"):
        writer.upload(store, {})
    assert store.list("") == []


def test_many_parts_need_few_open_files(
    make_features: MakeFeatures, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "MAX_OPEN_FILES", 2)
    stored = FeatureStore(make_features(*[1] * 20), PartCache(store, tmp_path / "cache"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    ids = [image_id(number) for number in range(20)]
    np.testing.assert_array_equal(stored.gather(ids), np.stack([values(number) for number in range(20)]))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_an_index_finds_the_first_of_several_places_and_knows_what_it_does_not_hold() -> None:
    def place(*numbers: int) -> Any:
        return np.array(numbers)

    ids = [image_id(number) for number in range(5)]
    index = ImageIndex([digests_of(ids[:3]), digests_of(ids[1:4])], [place(10, 11, 12), place(21, 22, 23)])
    found, places = index.find(digests_of([ids[3], ids[1], ids[4], ids[0]]))
    assert found.tolist() == [True, True, False, True]
    assert places[found].tolist() == [23, 11, 10]
    assert len(index) == 4
    assert not ImageIndex([], []).find(digests_of(ids))[0].any()
