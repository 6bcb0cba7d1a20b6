"""Outputs: made once, visible only when complete, named by what decides them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import log
from infra.errors import DataError, IntegrityError
from infra.outputs import Attempt, Draft, OutputRequest, ensure_output, find_output
from infra.store import LocalStore

REQUEST = OutputRequest("toy", 1, "demo", {"rate": 0.5}, {"dataset": "d" * 64})


class Toy:
    """A step of three units that counts what it does and can stop at one of them."""

    def __init__(self, folder: Path, fail_at: int | None = None, salt: str = "") -> None:
        self.folder = folder
        self.fail_at = fail_at
        self.salt = salt
        self.made: list[int] = []

    def __call__(self, attempt: Attempt) -> Draft:
        parts = []
        for unit in range(3):
            noted = attempt.noted(f"unit-{unit}")
            if noted is None:
                noted = self.make(attempt, unit)
            parts.append(noted)
        return Draft(parts=parts, identity={"toy_digest": "t" * 64}, counts={"rows_out": 3})

    def make(self, attempt: Attempt, unit: int) -> dict[str, Any]:
        if unit == self.fail_at:
            raise DataError(f"unit {unit} was found broken; expected whole.")
        self.made.append(unit)
        path = self.folder / "part"
        path.write_text(f"{self.salt}{unit}")
        part = attempt.add_part(path, "file", 1, name=f"{unit}.txt").model_dump()
        attempt.note(f"unit-{unit}", part)
        return part


def test_the_second_time_does_no_work(store: LocalStore, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    first, reused = ensure_output(store, REQUEST, toy, {})
    assert not reused
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
    second, reused = ensure_output(store, REQUEST, toy, {})
    assert reused
    assert second == first
    assert toy.made == [0, 1, 2]
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")} == before


def test_a_crash_commits_nothing(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        ensure_output(store, REQUEST, Toy(tmp_path, fail_at=2), {})
    assert find_output(store, REQUEST) is None
    assert log.entries(store, "toy", "demo") == []


def test_the_second_attempt_skips_what_was_noted(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        ensure_output(store, REQUEST, Toy(tmp_path, fail_at=2), {})
    again = Toy(tmp_path)
    manifest, _ = ensure_output(store, REQUEST, again, {})
    assert again.made == [2]
    assert [part.name for part in manifest.parts] == ["0.txt", "1.txt", "2.txt"]


def torn(note: bytes) -> bytes:
    return note[:12]


def altered(note: bytes) -> bytes:
    return note.replace(b'"num_rows":1', b'"num_rows":2')


@pytest.mark.parametrize("damage", [torn, altered])
def test_a_damaged_note_counts_as_none(damage: Callable[[bytes], bytes], store: LocalStore, tmp_path: Path) -> None:
    """Shown to fail for the altered one by noting without a digest."""
    with pytest.raises(DataError):
        ensure_output(store, REQUEST, Toy(tmp_path, fail_at=2), {})
    path = store.folder / f"toy/journal/{REQUEST.fingerprint}/unit-1.json"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    again = Toy(tmp_path)
    ensure_output(store, REQUEST, again, {})
    assert again.made == [1, 2]


def test_journal_and_checkpoints_are_gone_after_the_commit(store: LocalStore, tmp_path: Path) -> None:
    store.write(f"toy/checkpoints/{REQUEST.fingerprint}/00001/state.bin", b"x")
    store.write(f"toy/journal/{'e' * 64}/unit-0.json", b"another attempt's")
    ensure_output(store, REQUEST, Toy(tmp_path), {})
    left = [key for key in store.list("toy") if "/journal/" in key or "/checkpoints/" in key]
    assert left == [f"toy/journal/{'e' * 64}/unit-0.json"]


def test_the_second_writer_takes_the_first_manifest(store: LocalStore, tmp_path: Path) -> None:
    class Overtaken(Toy):
        """Another writer commits while this one works."""

        def __call__(self, attempt: Attempt) -> Draft:
            self.first, _ = ensure_output(store, REQUEST, Toy(tmp_path, salt="first "), {})
            return super().__call__(attempt)

    slow = Overtaken(tmp_path, salt="second ")
    manifest, _ = ensure_output(store, REQUEST, slow, {})
    assert manifest == slow.first == find_output(store, REQUEST)
    assert len(log.entries(store, "toy", "demo")) == 1


def test_an_output_whose_writer_died_before_logging_it_is_logged_by_the_next(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are found again through the log of their encoder key: an unlogged output would be made twice."""
    request = OutputRequest("toy", 1, "demo", {"rate": 0.5}, {}, also_logged_as="key")

    def killed(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(log, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure_output(store, request, Toy(tmp_path), {})
    assert find_output(store, request) is not None
    toy = Toy(tmp_path)
    for _ in range(2):
        _, reused = ensure_output(store, request, toy, {})
        assert reused
    assert toy.made == []
    for name in ("demo", "key"):
        assert [entry["fingerprint"] for entry in log.entries(store, "toy", name)] == [request.fingerprint]


@pytest.mark.parametrize(
    "other",
    [
        OutputRequest("toy", 2, "demo", {"rate": 0.5}, {"dataset": "d" * 64}),
        OutputRequest("toy", 1, "demo", {"rate": 0.6}, {"dataset": "d" * 64}),
        OutputRequest("toy", 1, "demo", {"rate": 0.5}, {"dataset": "e" * 64}),
        OutputRequest("other", 1, "demo", {"rate": 0.5}, {"dataset": "d" * 64}),
    ],
    ids=["step version", "configuration", "input", "step"],
)
def test_the_fingerprint_changes_with(other: OutputRequest) -> None:
    assert other.fingerprint != REQUEST.fingerprint


def test_the_fingerprint_ignores_names_key_order_and_resources(store: LocalStore, tmp_path: Path) -> None:
    config: dict[str, Any] = {"a": 1, "b": {"c": 2, "d": 3}}
    turned: dict[str, Any] = {"b": {"d": 3, "c": 2}, "a": 1}
    one, other = OutputRequest("toy", 1, "x", config, {}), OutputRequest("toy", 1, "y", turned, {})
    assert one.fingerprint == other.fingerprint
    ensure_output(store, one, Toy(tmp_path), {"num_actors": 2})
    found, reused = ensure_output(store, other, Toy(tmp_path), {"num_actors": 16})
    assert reused
    assert found.record.resources == {"num_actors": 2}


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, -2])
def test_a_torn_manifest_is_named_with_its_remedy(store: LocalStore, tmp_path: Path, keep: float) -> None:
    ensure_output(store, REQUEST, Toy(tmp_path), {})
    path = store.folder / REQUEST.manifest_key
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(IntegrityError) as caught:
        find_output(store, REQUEST)
    assert REQUEST.manifest_key in str(caught.value)
    path.unlink()  # the remedy of the message
    _, reused = ensure_output(store, REQUEST, Toy(tmp_path), {})
    assert not reused


def test_a_part_name_that_leaves_its_folder_is_refused(store: LocalStore, tmp_path: Path) -> None:
    """A manifest is data: its names become local paths."""
    ensure_output(store, REQUEST, Toy(tmp_path), {})
    path = store.folder / REQUEST.manifest_key
    whole = path.read_text()
    for name in ("../../0.txt", "/etc/0.txt", "a/../../0.txt"):
        path.write_text(whole.replace('"name": "0.txt"', f'"name": "{name}"'))
        with pytest.raises(IntegrityError, match="name"):
            find_output(store, REQUEST)


def test_equal_bytes_are_one_part_which_is_healed_and_young_again(store: LocalStore, tmp_path: Path) -> None:
    """What was left unreferenced long ago may be made again just before `gc` looks at its age.

    Shown to fail by uploading only where the part does not exist."""
    attempt = Attempt(store, REQUEST)
    path = tmp_path / "part"
    path.write_bytes(b"the same")
    one = attempt.add_part(path, "file", 1, name="a")
    stored = store.folder / "toy" / "parts" / one.digest
    stored.write_bytes(b"the sane")
    os.utime(stored, (0, 0))
    other = attempt.add_part(path, "file", 1, name="b")
    assert one.digest == other.digest
    assert stored.read_bytes() == b"the same"
    assert stored.stat().st_mtime > 0
    assert len(store.list("toy/parts")) == 1


@pytest.mark.slow
def test_an_output_on_s3_is_made_once_and_read_back(s3: str, tmp_path: Path) -> None:
    from infra.store import open_store

    store = open_store(s3)
    with pytest.raises(DataError):
        ensure_output(store, REQUEST, Toy(tmp_path, fail_at=1), {})
    toy = Toy(tmp_path)
    first, _ = ensure_output(store, REQUEST, toy, {})
    assert toy.made == [1, 2]
    found, reused = ensure_output(store, REQUEST, toy, {})
    assert reused
    assert found == first
    assert store.list("toy/journal") == []
