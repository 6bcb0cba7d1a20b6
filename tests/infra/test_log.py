"""Numbered logs: each number has one winner, nothing is lost, order is kept."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from infra import log
from infra.errors import IntegrityError
from infra.store import LocalStore, Store


def test_racing_appends_are_all_kept_under_different_numbers(any_store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda racer: log.append(any_store, "train", "demo", {"racer": racer}), range(8)))
    assert sorted(numbers) == list(range(1, 9))
    entries = log.entries(any_store, "train", "demo")
    assert [entry["number"] for entry in entries] == list(range(1, 9))
    assert {entry["number"]: entry["racer"] for entry in entries} == dict(zip(numbers, range(8), strict=True))


def test_newest_is_the_last_entry_beyond_ten_and_none_without_any(any_store: Store) -> None:
    assert log.newest(any_store, "train", "demo") is None
    for number in range(11):
        log.append(any_store, "train", "demo", {"fingerprint": str(number)})
    assert log.newest(any_store, "train", "demo") == {"number": 11, "fingerprint": "10"}
    assert [entry["fingerprint"] for entry in log.entries(any_store, "train", "demo")] == [str(n) for n in range(11)]


def test_a_number_is_given_once(any_store: Store) -> None:
    assert log.create_in(any_store, "ledger", 1, {"who": "first"})
    assert not log.create_in(any_store, "ledger", 1, {"who": "second"})
    assert log.newest_in(any_store, "ledger") == {"number": 1, "who": "first"}


def test_logs_of_different_names_are_apart(any_store: Store) -> None:
    log.append(any_store, "train", "demo", {"a": 1})
    log.append(any_store, "train", "demo-2", {"a": 2})
    assert len(log.entries(any_store, "train", "demo")) == 1


def test_racing_appends_of_equal_entries_are_one_entry(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reader of an output enters it where its writer died before it did. All of them look before any writes.

    Shown to fail with a local `create` that says False for equal bytes."""
    monkeypatch.setattr(log, "newest_in", lambda *_: None)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: log.append(any_store, "train", "demo", {"fingerprint": "f"}), range(8)))
    assert numbers == [1] * 8
    assert log.entries(any_store, "train", "demo") == [{"number": 1, "fingerprint": "f"}]


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_entry_is_named_and_never_skipped(store: LocalStore, damaged: int) -> None:
    """Shown to fail by leaving out entries that cannot be read."""
    for number in range(3):
        log.append(store, "train", "demo", {"fingerprint": str(number)})
    path = store.folder / "train" / "log" / "demo" / f"{damaged:08d}.json"
    path.write_bytes(path.read_bytes().replace(b'"fingerprint":"', b'"fingerprint":"9'))
    with pytest.raises(IntegrityError, match=f"{damaged:08d}.json: not an entry of a log"):
        log.entries(store, "train", "demo")


@pytest.mark.parametrize("missing", [1, 2])
def test_a_gap_is_named(store: LocalStore, missing: int) -> None:
    """Shown to fail by taking the listing's word for what there is."""
    for number in range(3):
        log.append(store, "train", "demo", {"fingerprint": str(number)})
    store.delete(f"train/log/demo/{missing:08d}.json")
    with pytest.raises(IntegrityError, match=f"{missing:08d}.json: missing; expected entries up to number 3"):
        log.entries(store, "train", "demo")


class WrongListing(LocalStore):
    """A listing that is stale, or damaged on its way."""

    told: list[str]

    def list(self, _: str) -> list[str]:
        return self.told


@pytest.mark.parametrize("told", [[], ["00000001"], ["0000000z", "00000002"], ["00000007"]])
def test_the_newest_entry_does_not_depend_on_a_listing(store: LocalStore, told: list[str]) -> None:
    for number in range(3):
        log.append(store, "train", "demo", {"fingerprint": str(number)})
    wrong = WrongListing(store.folder)
    wrong.told = [f"train/log/demo/{name}.json" for name in told]
    if told == ["00000007"]:
        with pytest.raises(IntegrityError, match=r"00000004\.json: missing"):
            log.newest(wrong, "train", "demo")
    else:
        assert log.newest(wrong, "train", "demo") == {"number": 3, "fingerprint": "2"}
