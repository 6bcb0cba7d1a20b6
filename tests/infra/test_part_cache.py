"""The part cache and `verify`: only bytes that match their digest are ever used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import IntegrityError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output
from infra.part_cache import PartCache
from infra.store import LocalStore
from infra.verify import verify_store

REQUEST = OutputRequest("toy", 1, "demo", {}, {})


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [flip_a_bit, truncate, empty, Path.unlink]


@pytest.fixture
def manifest(store: LocalStore, tmp_path: Path) -> Manifest:
    def produce(attempt: Attempt) -> Draft:
        parts = []
        for number in range(3):
            path = tmp_path / "part"
            path.write_bytes(bytes([number]) * 1000)
            parts.append(attempt.add_part(path, "file", 1, name=f"model/{number}.bin"))
        return Draft(parts=parts, identity={})

    return ensure_output(store, REQUEST, produce, {})[0]


@pytest.fixture
def cache(store: LocalStore, tmp_path: Path) -> PartCache:
    return PartCache(store, tmp_path / "part cache")


def stored(store: LocalStore, part: Part) -> Path:
    return store.folder / "toy" / "parts" / part.digest


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_and_never_enters(
    damage: Callable[[Path], None], store: LocalStore, manifest: Manifest, cache: PartCache
) -> None:
    part = manifest.parts[1]
    damage(stored(store, part))
    for attempt in (lambda: cache.path("toy", part), lambda: cache.folder_of(manifest, "model")):
        with pytest.raises(IntegrityError) as caught:
            attempt()
        message = str(caught.value)
        assert f"toy/parts/{part.digest}" in message
        assert f"expected file with sha256 {part.digest[:12]}… and 1000 bytes" in message
        assert "missing" in message or "found bytes with sha256" in message
    held = [path.read_bytes() for path in cache.folder.rglob("*") if path.is_file()]
    assert all(data == bytes([0]) * 1000 for data in held), "only the good part before it"


def test_a_part_comes_in_once_and_is_then_read_locally(store: LocalStore, manifest: Manifest, cache: PartCache) -> None:
    part = manifest.parts[0]
    path = cache.path("toy", part)
    stored(store, part).unlink()
    assert cache.path("toy", part) == path
    assert path.read_bytes() == bytes(1000)


def test_a_folder_holds_its_parts_under_their_names(manifest: Manifest, cache: PartCache) -> None:
    folder = cache.folder_of(manifest, "model")
    assert sorted(path.name for path in folder.iterdir()) == ["0.bin", "1.bin", "2.bin"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_each_damaged_part(damage: Callable[[Path], None], store: LocalStore, manifest: Manifest) -> None:
    assert verify_store(store).damaged == []
    for part in manifest.parts[1:]:
        damage(stored(store, part))
    report = verify_store(store)
    assert (report.num_outputs, report.num_parts) == (1, 3)
    assert len(report.damaged) == 2
    for part in manifest.parts[1:]:
        assert any(part.digest in line and REQUEST.manifest_key in line for line in report.damaged)


def test_verify_names_a_torn_manifest_and_goes_on(store: LocalStore, manifest: Manifest) -> None:
    other = OutputRequest("toy", 2, "demo", {}, {})
    ensure_output(store, other, lambda _: Draft(parts=manifest.parts, identity={}), {})
    truncate(store.folder / REQUEST.manifest_key)
    report = verify_store(store)
    assert (report.num_outputs, report.num_parts) == (2, 3)
    assert len(report.damaged) == 1
    assert REQUEST.manifest_key in report.damaged[0]


def test_an_empty_store_is_whole(store: LocalStore) -> None:
    report = verify_store(store)
    assert (report.num_outputs, report.num_parts, report.damaged) == (0, 0, [])


def test_one_cache_keeps_equal_requests_of_two_stores_apart(tmp_path: Path) -> None:
    """Threads and device are in no fingerprint: equal requests may have other bytes in another store."""
    folders = []
    for name in ("one", "two"):
        store = LocalStore(tmp_path / name)
        path = tmp_path / f"{name}.txt"
        path.write_text(name)
        request = OutputRequest("base", 1, "demo", {}, {})

        def produce(attempt: Attempt, path: Path = path) -> Draft:
            return Draft(parts=[attempt.add_part(path, "file", 0, name="tower/weights")], identity={})

        manifest, _ = ensure_output(store, request, produce, {})
        folders.append(PartCache(store, tmp_path / "cache").folder_of(manifest, "tower"))
    assert [(folder / "weights").read_text() for folder in folders] == ["one", "two"]


def test_verify_names_an_altered_manifest(store: LocalStore, manifest: Manifest) -> None:
    key = f"{manifest.step}/{manifest.fingerprint}/manifest.json"
    data = (store.read(key) or b"").replace(b'"num_rows": ', b'"num_rows": 1')
    store.write(key, data)
    (damaged,) = verify_store(store).damaged
    assert key in damaged
    assert "it states" in damaged
