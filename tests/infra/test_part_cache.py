"""The part cache and `verify`: only bytes that match their digest are ever used."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import log
from infra.errors import IntegrityError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output, find_output
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
    held = [path.read_bytes() for path in cache.folder.rglob("*") if path.is_file() and path.parent.name != "stamps"]
    assert all(data == bytes([0]) * 1000 for data in held), "only the good part before it"


def test_a_part_comes_in_once_and_is_then_read_locally(store: LocalStore, manifest: Manifest, cache: PartCache) -> None:
    part = manifest.parts[0]
    path = cache.path("toy", part)
    stored(store, part).unlink()
    assert cache.path("toy", part) == path
    assert path.read_bytes() == bytes(1000)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty])
def test_bytes_that_change_after_they_came_in_are_not_used(
    damage: Callable[[Path], None], store: LocalStore, manifest: Manifest, cache: PartCache
) -> None:
    """On one file system the cache shares the store's bytes. Shown to fail by returning every path that exists."""
    part = manifest.parts[0]
    assert cache.path("toy", part).samefile(stored(store, part)), "nothing was copied"
    cache.folder_of(manifest, "model")
    damage(stored(store, part))
    for attempt in (lambda: cache.path("toy", part), lambda: cache.folder_of(manifest, "model")):
        with pytest.raises(IntegrityError, match=part.digest):
            attempt()


def test_a_part_that_was_made_again_is_the_one_in_the_folder(
    store: LocalStore, manifest: Manifest, cache: PartCache, tmp_path: Path
) -> None:
    part = manifest.parts[0]
    folder = cache.folder_of(manifest, "model")
    flip_a_bit(stored(store, part))
    (tmp_path / "part").write_bytes(bytes(1000))
    Attempt(store, REQUEST).add_part(tmp_path / "part", "file", 1)
    assert (cache.folder_of(manifest, "model") / "0.bin").read_bytes() == bytes(1000)
    assert folder == cache.folder_of(manifest, "model")


def test_without_links_between_file_systems_the_bytes_are_copied(
    store: LocalStore, manifest: Manifest, cache: PartCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_file_system(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_file_system)
    part = manifest.parts[1]
    path = cache.path("toy", part)
    assert path.read_bytes() == bytes([1]) * 1000
    assert not path.samefile(stored(store, part))
    assert (cache.folder_of(manifest, "model") / "1.bin").read_bytes() == bytes([1]) * 1000


class Glitching(LocalStore):
    """A connection that gives wrong bytes of the right length, as often as it is told to."""

    glitches = 0

    def download(self, key: str, path: Path) -> None:
        path.write_bytes((self.folder / key).read_bytes())
        if self.glitches:
            self.glitches -= 1
            flip_a_bit(path)

    def read(self, key: str) -> bytes | None:
        data = super().read(key)
        if data is None or not self.glitches:
            return data
        self.glitches -= 1
        return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def test_a_part_that_arrives_wrong_is_fetched_again(manifest: Manifest, cache: PartCache) -> None:
    """Shown to fail with NUM_READS = 1."""
    cache.store = glitching = Glitching(cache.store.folder)
    for glitches in (1, 3):
        glitching.glitches = glitches
        assert cache.path("toy", manifest.parts[glitches - 1]).read_bytes() == bytes([glitches - 1]) * 1000
    glitching.glitches = 100
    with pytest.raises(IntegrityError, match=manifest.parts[1].digest):
        cache.path("toy", manifest.parts[1])


def test_a_manifest_a_note_and_a_log_entry_that_arrive_wrong_are_read_again(
    store: LocalStore, manifest: Manifest
) -> None:
    """Shown to fail with NUM_READS = 1."""
    attempt = Attempt(store, REQUEST)
    attempt.note("unit", {"rows": 3})
    attempt.store = glitching = Glitching(store.folder)
    for glitches in (0, 1, 3):
        glitching.glitches = glitches
        assert find_output(glitching, REQUEST) == manifest
        glitching.glitches = glitches
        assert attempt.noted("unit") == {"rows": 3}
        glitching.glitches = glitches
        assert log.newest(glitching, "toy", "demo") == {"number": 1, "fingerprint": REQUEST.fingerprint}
    glitching.glitches = 100
    with pytest.raises(IntegrityError, match=REQUEST.manifest_key):
        find_output(glitching, REQUEST)
    assert attempt.noted("unit") is None
    with pytest.raises(IntegrityError, match=r"toy/log/demo/00000001\.json: not an entry of a log"):
        log.newest(glitching, "toy", "demo")


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
        assert any(part.digest in damage.file and REQUEST.manifest_key in damage.outputs for damage in report.damaged)


def test_verify_names_a_torn_manifest_and_goes_on(store: LocalStore, manifest: Manifest) -> None:
    other = OutputRequest("toy", 2, "demo", {}, {})
    ensure_output(store, other, lambda _: Draft(parts=manifest.parts, identity={}), {})
    truncate(store.folder / REQUEST.manifest_key)
    report = verify_store(store)
    assert (report.num_outputs, report.num_parts) == (2, 3)
    assert len(report.damaged) == 1
    assert report.damaged[0].file == REQUEST.manifest_key


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
    assert damaged.file == key
    assert "it states" in damaged.found
