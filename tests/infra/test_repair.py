"""`verify` names every flipped bit; `verify --repair` lets the next run make exactly the damaged parts again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import log
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output, find_output
from infra.part_cache import PartCache
from infra.remaining import find_remaining
from infra.repair import Repair, repair_store, to_run
from infra.store import LocalStore
from infra.verify import verify_store

NUM_UNITS = 4


class Toy:
    """A step of four parts that goes on from what remains, and counts what it makes."""

    def __init__(self, folder: Path, units: range = range(NUM_UNITS)) -> None:
        self.folder = folder
        self.units = units
        self.made: list[int] = []

    def request(self) -> OutputRequest:
        return OutputRequest("toy", 1, "demo", {"units": list(self.units)}, {}, also_logged_as="key")

    def __call__(self, attempt: Attempt) -> Draft:
        remaining = find_remaining(attempt.store, "toy", attempt.request.fingerprint)
        there = {part.name: part for part in remaining.parts} if remaining else {}
        parts = [there.get(str(unit)) or self.make(attempt, unit) for unit in self.units]
        return Draft(parts=parts, identity={"key": "key"})

    def make(self, attempt: Attempt, unit: int) -> Part:
        self.made.append(unit)
        path = self.folder / "part"
        path.write_bytes(bytes([unit]) * 1000)
        return attempt.add_part(path, "file", 1, name=str(unit))

    def output(self, store: LocalStore) -> Manifest:
        return ensure_output(store, self.request(), self, {})[0]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture
def cache(store: LocalStore, tmp_path: Path) -> PartCache:
    return PartCache(store, tmp_path / "cache")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def repaired(store: LocalStore, cache: PartCache) -> Repair:
    done = repair_store(store, verify_store(store), cache)
    assert verify_store(store).damaged == done.beyond_repair
    return done


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink, lambda path: os.truncate(path, 7)])
@pytest.mark.parametrize("lost", [[0], [1, 3], [0, 1, 2, 3]])
def test_exactly_the_damaged_parts_are_made_again(
    damage: Callable[[Path], None], lost: list[int], store: LocalStore, toy: Toy, cache: PartCache
) -> None:
    """Shown to fail by deleting the manifest without noting what remains."""
    before = toy.output(store)
    for unit in lost:
        damage(store.folder / "toy" / "parts" / before.parts[unit].digest)
    assert len(verify_store(store).damaged) == len(lost)
    done = repaired(store, cache)
    assert list(to_run(done)) == [f"recipe demo, toy: {len(lost)} of 4 parts"]
    assert find_output(store, toy.request()) is None
    toy.made.clear()
    after = toy.output(store)
    assert toy.made == lost
    assert after.parts == before.parts
    assert verify_store(store).damaged == []
    assert store.list("toy/journal") == []
    assert len(log.entries(store, "toy", "demo")) == 1


def test_an_output_is_as_it_was_where_the_repair_is_killed_and_repeated(
    store: LocalStore, toy: Toy, cache: PartCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown to fail by deleting the damaged part, or the manifest, before the note is written."""
    before = toy.output(store)
    flip_a_bit(store.folder / "toy" / "parts" / before.parts[2].digest)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for method in ("write", "delete"):
        with monkeypatch.context() as dying:
            dying.setattr(LocalStore, method, killed)
            with pytest.raises(Killed):
                repair_store(store, verify_store(store), cache)
        assert find_output(store, toy.request()) == before
        assert len(verify_store(store).parts) == 1
    repaired(store, cache)
    toy.made.clear()
    assert toy.output(store).parts == before.parts
    assert toy.made == [2]


def test_a_part_that_two_outputs_share_is_made_again_by_either(store: LocalStore, toy: Toy, cache: PartCache) -> None:
    first, second = toy.output(store), Toy(toy.folder, range(2)).output(store)
    flip_a_bit(store.folder / "toy" / "parts" / first.parts[1].digest)
    (damage,) = verify_store(store).damaged
    keys = {f"toy/{manifest.fingerprint}/manifest.json" for manifest in (first, second)}
    assert set(damage.outputs) == keys
    repaired(store, cache)
    for again in (toy, Toy(toy.folder, range(2))):
        again.made.clear()
        again.output(store)
        assert again.made == [1]
    assert verify_store(store).num_outputs == 2


def test_further_damage_to_what_remains_is_found_before_it_is_used(
    store: LocalStore, toy: Toy, cache: PartCache
) -> None:
    before = toy.output(store)
    for unit in (0, 2):
        flip_a_bit(store.folder / "toy" / "parts" / before.parts[unit].digest)
        repaired(store, cache)
    toy.made.clear()
    assert toy.output(store).parts == before.parts
    assert toy.made == [0, 2]


def test_bytes_that_this_machine_still_has_are_put_back(store: LocalStore, toy: Toy, cache: PartCache) -> None:
    before = toy.output(store)
    part = before.parts[1]
    path = store.folder / "toy" / "parts" / part.digest
    cache.path("toy", part)
    path.unlink()
    done = repaired(store, cache)
    assert done.put_back == [f"toy/parts/{part.digest}"]
    assert find_output(store, toy.request()) == before
    flip_a_bit(path.with_name(before.parts[0].digest))
    assert repaired(store, cache).put_back == []


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: os.truncate(path, 40)])
def test_a_damaged_manifest_is_named_and_its_output_made_again(
    damage: Callable[[Path], None], store: LocalStore, toy: Toy, cache: PartCache
) -> None:
    before = toy.output(store)
    key = toy.request().manifest_key
    damage(store.folder / key)
    (found,) = verify_store(store).damaged
    assert found.file == key
    assert list(to_run(repaired(store, cache))) == [f"{key}: the whole output"]
    assert toy.output(store).parts == before.parts


@pytest.mark.parametrize("name", ["demo", "key"])
@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
def test_a_damaged_entry_of_a_log_of_commits_is_written_again(
    name: str, damage: Callable[[Path], None], store: LocalStore, toy: Toy, cache: PartCache
) -> None:
    outputs = [Toy(toy.folder, range(number)).output(store) for number in (1, 2, 3)]
    before = log.entries(store, "toy", name)
    damage(store.folder / "toy" / "log" / name / "00000002.json")
    (found,) = verify_store(store).damaged
    assert found.file == f"toy/log/{name}/00000002.json"
    assert repaired(store, cache).rewritten == [found.file]
    assert log.entries(store, "toy", name) == before
    assert [entry["fingerprint"] for entry in before] == [output.fingerprint for output in outputs]


def test_a_damaged_ledger_is_told_and_left_alone(store: LocalStore, toy: Toy, cache: PartCache) -> None:
    toy.output(store)
    log.create_in(store, "register/ledger/m", 1, {"version": "1"})
    path = store.folder / "register" / "ledger" / "m" / "00000001.json"
    flip_a_bit(path)
    damaged = path.read_bytes()
    done = repaired(store, cache)
    assert [found.file for found in done.beyond_repair] == ["register/ledger/m/00000001.json"]
    assert path.read_bytes() == damaged


def test_every_flipped_bit_of_every_file_is_found(store: LocalStore, toy: Toy) -> None:
    """Each by another of the three checks of `verify_store`."""
    toy.output(store)
    for path in [path for path in store.folder.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 25)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            (found,) = verify_store(store).damaged
            assert (store.folder / found.file) == path
            assert found.expected and found.found
        path.write_bytes(whole)
    assert verify_store(store).damaged == []
