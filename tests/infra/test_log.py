"""Numbered logs: each number has one winner, nothing is lost, order is kept."""

from concurrent.futures import ThreadPoolExecutor

from infra import log
from infra.store import Store


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
