"""`gc` removes what nothing refers to and what is older than the grace period, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from infra import log
from infra.errors import IntegrityError
from infra.gc import find_garbage, remove_garbage
from infra.outputs import Attempt, Draft, OutputRequest, ensure_output
from infra.part_cache import PartCache
from infra.repair import repair_store
from infra.sealed import seal
from infra.store import LocalStore, StoredObject, open_store
from infra.verify import verify_store

GRACE = 3600.0
REQUEST = OutputRequest("toy", 1, "demo", {}, {})
OTHER = OutputRequest("toy", 2, "demo", {}, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def part_of(content: str, attempt: Attempt, folder: Path) -> str:
    path = folder / "part"
    path.write_text(content)
    return attempt.add_part(path, "file", 1).digest


def committed(store: LocalStore, folder: Path) -> str:
    """The digest of the one part of a committed output."""

    def produce(attempt: Attempt) -> Draft:
        path = folder / "part"
        path.write_text("committed")
        return Draft(parts=[attempt.add_part(path, "file", 1)], identity={})

    return ensure_output(store, REQUEST, produce, {})[0].parts[0].digest


def grow_old(store: LocalStore, seconds: float = 2 * GRACE) -> None:
    then = time.time() - seconds
    for path in store.folder.rglob("*"):
        os.utime(path, (then, then))


def found(store: LocalStore, folder: Path) -> list[tuple[str, str]]:
    return [(one.kind, one.object.key) for one in find_garbage(store, folder / "cache", GRACE)]


def test_only_old_parts_that_nothing_names_are_garbage(store: LocalStore, folder: Path) -> None:
    """Shown to fail by leaving out any one of manifests, notes, checkpoints and what remains of an output."""
    kept = committed(store, folder)
    attempt = Attempt(store, OTHER)
    lost = part_of("never noted", attempt, folder)
    noted = part_of("noted", attempt, folder)
    attempt.note("unit", {"parts": [{"digest": noted}]})
    checkpointed = part_of("named by a checkpoint", attempt, folder)
    store.write(f"toy/checkpoints/{OTHER.fingerprint}/00000001/state.json", f'{{"at": "{checkpointed}"}}'.encode())
    grow_old(store)
    young = part_of("young", attempt, folder)
    assert found(store, folder) == [("parts", f"toy/parts/{lost}")]
    grow_old(store)
    assert sorted(found(store, folder)) == sorted([("parts", f"toy/parts/{lost}"), ("parts", f"toy/parts/{young}")])
    removed = remove_garbage(store, folder, find_garbage(store, folder / "cache", GRACE))
    assert sum(one.object.size_bytes for one in removed) == len("never noted") + len("young")
    assert sorted(store.list("toy/parts")) == sorted(f"toy/parts/{digest}" for digest in (kept, noted, checkpointed))
    assert found(store, folder) == []
    assert verify_store(store).damaged == []


def test_what_remains_of_an_output_that_was_taken_back_is_kept(store: LocalStore, folder: Path) -> None:
    def produce(attempt: Attempt) -> Draft:
        parts = []
        for unit in range(3):
            (folder / "part").write_text(f"unit {unit}")
            parts.append(attempt.add_part(folder / "part", "file", 1))
        return Draft(parts=parts, identity={})

    manifest, _ = ensure_output(store, REQUEST, produce, {})
    (store.folder / "toy" / "parts" / manifest.parts[0].digest).write_text("damaged")
    repair_store(store, verify_store(store), PartCache(store, folder / "another cache"))
    grow_old(store)
    assert found(store, folder) == []


def test_leftovers_of_killed_writers_go_and_logs_stay(store: LocalStore, folder: Path) -> None:
    committed(store, folder)
    store.write(f"toy/journal/{REQUEST.fingerprint}/unit.json", seal({"late": "note of another writer"}))
    store.write(f"toy/journal/{OTHER.fingerprint}/unit.json", seal({"of": "an attempt that may go on"}))
    store.write(".probe/abc", b"1")
    log.create_in(store, "register/ledger/m", 1, {"version": "1"})
    (store.folder / "toy" / "parts" / ".tmp-abc").write_text("torn")
    (folder / "cache" / "parts").mkdir(parents=True)
    (folder / "cache" / "parts" / ".tmp-def").write_text("torn")
    os.utime(folder / "cache" / "parts" / ".tmp-def", (0, 0))
    assert found(store, folder) == [("cache", "parts/.tmp-def")]
    grow_old(store)
    garbage = find_garbage(store, folder / "cache", GRACE)
    assert {(one.kind, one.object.key) for one in garbage} == {
        ("probes", ".probe/abc"),
        ("journals", f"toy/journal/{REQUEST.fingerprint}/unit.json"),
        ("unfinished writes", "toy/parts/.tmp-abc"),
        ("cache", "parts/.tmp-def"),
    }
    assert len(remove_garbage(store, folder / "cache", garbage)) == 4
    assert found(store, folder) == [] == store.unfinished()
    assert not (folder / "cache" / "parts" / ".tmp-def").exists()
    assert len(store.list("toy/log")) == len(store.list("register/ledger")) == 1
    assert store.list("toy/journal") == [f"toy/journal/{OTHER.fingerprint}/unit.json"]


def test_a_part_that_is_made_again_while_garbage_is_removed_is_not_lost(store: LocalStore, folder: Path) -> None:
    """Shown to fail by removing without a second look."""
    attempt = Attempt(store, OTHER)
    digest = part_of("made again", attempt, folder)
    grow_old(store)
    garbage = find_garbage(store, folder / "cache", GRACE)
    assert [one.object.key for one in garbage] == [f"toy/parts/{digest}"]
    part_of("made again", attempt, folder)
    assert remove_garbage(store, folder, garbage) == []
    assert store.list("toy/parts") == [f"toy/parts/{digest}"]


def test_an_output_that_is_committed_while_garbage_is_sought_keeps_its_parts(store: LocalStore, folder: Path) -> None:
    """Shown to fail by listing what is referred to before listing what there is."""
    attempt = Attempt(store, REQUEST)
    part_of("committed", attempt, folder)
    grow_old(store)

    class Overtaken(LocalStore):
        """Another writer commits right after the first listing."""

        committed = False

        def objects(self, prefix: str) -> list[StoredObject]:
            listed = super().objects(prefix)
            if not self.committed:
                self.committed = True
                committed(store, folder)
                grow_old(store)
            return listed

    assert find_garbage(Overtaken(store.folder), folder / "cache", GRACE) == []


def test_an_output_that_is_committed_while_notes_are_sought_keeps_its_parts(store: LocalStore, folder: Path) -> None:
    """Its note goes when its manifest is there. Shown to fail by listing once and reading manifests before notes."""
    attempt = Attempt(store, REQUEST)
    attempt.note("unit", {"digest": part_of("committed", attempt, folder)})
    grow_old(store)

    class Overtaken(LocalStore):
        """The attempt is completed right after the note was listed and before it is read."""

        listed = False

        def list(self, prefix: str) -> list[str]:
            keys = super().list(prefix)
            if not self.listed:
                self.listed = True
                committed(store, folder)
                grow_old(store)
            return keys

    assert find_garbage(Overtaken(store.folder), folder / "cache", GRACE) == []


def test_the_cache_lets_go_of_a_removed_part(store: LocalStore, folder: Path) -> None:
    """It holds the same file by another name, whose bytes would stay."""
    cache = PartCache(store, folder / "cache")
    path = folder / "part"
    path.write_text("never listed")
    part = Attempt(store, OTHER).add_part(path, "file", 1)
    cached = cache.path("toy", part)
    grow_old(store)
    assert len(remove_garbage(store, cache.folder, find_garbage(store, cache.folder, GRACE))) == 1
    assert not cached.exists()


def test_nothing_is_removed_from_a_store_with_a_damaged_manifest(store: LocalStore, folder: Path) -> None:
    """What it lists cannot be told from garbage."""
    committed(store, folder)
    path = store.folder / REQUEST.manifest_key
    path.write_bytes(path.read_bytes().replace(b"demo", b"deno"))
    grow_old(store)
    with pytest.raises(IntegrityError, match=REQUEST.manifest_key):
        find_garbage(store, folder / "cache", GRACE)


@pytest.mark.slow
def test_aborted_multipart_uploads_on_s3_go(s3: str, folder: Path) -> None:
    import boto3

    store = open_store(s3)
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/toy/parts/abc")
    digest = part_of("old", Attempt(store, OTHER), folder)
    garbage = find_garbage(store, folder / "cache", 0)
    assert {(one.kind, one.object.key) for one in garbage} == {
        ("unfinished writes", "toy/parts/abc"),
        ("parts", f"toy/parts/{digest}"),
    }
    assert len(remove_garbage(store, folder / "cache", garbage)) == 2
    assert store.unfinished() == [] == store.list("")
