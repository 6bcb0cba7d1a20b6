from concurrent.futures import ThreadPoolExecutor

import pytest

from infra import log
from infra.errors import IntegrityError
from infra.store import Store
from training.ledger import Kind, LedgerEntry, append_entry, folder_of, former_champions, head, history

NUM_RACERS = 16


def entry(number: int, digest: str = "a" * 64, version: str = "1", kind: Kind = "promotion") -> LedgerEntry:
    return LedgerEntry(
        number=number,
        kind=kind,
        model_digest=digest,
        version=version,
        previous_version=None if number == 1 else str(number - 1),
        train_fingerprint="t",
        register_fingerprint="f",
        inputs={"champion_digest": "none"},
        reasons=["better"],
    )


def test_an_empty_ledger_has_no_head(store: Store) -> None:
    assert head(store, "m") is None
    assert history(store, "m") == []


def test_the_head_is_the_newest_entry(store: Store) -> None:
    for number in range(1, 13):
        assert append_entry(store, "m", entry(number, version=str(number))) is not None
    found = head(store, "m")
    assert found is not None and (found.number, found.version, found.reasons) == (12, "12", ["better"])
    assert [old.number for old in history(store, "m")] == list(range(1, 13))
    assert head(store, "other") is None


@pytest.mark.parametrize("equal", [True, False])
def test_sixteen_racers_have_one_winner(store: Store, equal: bool) -> None:
    """Also when all of them write the same decision."""
    for number in range(1, 6):
        racers = [entry(number, ("a" if equal else f"{n:x}") * 64) for n in range(NUM_RACERS)]
        with ThreadPoolExecutor(NUM_RACERS) as pool:
            won = [found for found in pool.map(lambda racer: append_entry(store, "m", racer), racers) if found]
        assert len(won) == 1
        assert head(store, "m") == won[0]


def test_who_decided_against_an_older_champion_loses(store: Store) -> None:
    first = append_entry(store, "m", entry(1))
    assert append_entry(store, "m", entry(1, "b" * 64)) is None
    assert head(store, "m") == first


def test_a_damaged_entry_is_named(store: Store) -> None:
    log.create_in(store, folder_of("m"), 1, {"kind": "promotion"})
    with pytest.raises(IntegrityError, match=r"register/ledger/m: entry 1 .*model_digest"):
        head(store, "m")


def test_every_entry_has_a_reason() -> None:
    with pytest.raises(ValueError, match="reasons"):
        LedgerEntry.model_validate(entry(1).model_dump() | {"reasons": []})


@pytest.mark.parametrize(
    ("changes", "back"),
    [
        ("", ""),
        ("a", ""),
        ("a b c", "a b"),
        ("a b <a", ""),
        ("a b c <b", "a"),
        ("a b c <b <a", ""),
        ("a b <a c", "a"),
        ("a b a", "a b"),
    ],
)
def test_rollbacks_go_backwards_through_those_who_served(changes: str, back: str) -> None:
    entries = [
        entry(number, version=change.strip("<"), kind="rollback" if "<" in change else "promoted_by_hand")
        for number, change in enumerate(changes.split(), start=1)
    ]
    assert " ".join(former.version for former in former_champions(entries)) == back
