import json
from collections.abc import Iterator

import pytest
from receiver import Receiver, receiving

from flows.telling import tell_changes
from infra.store import Store
from training.ledger import LedgerEntry, append_entry


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Configured as an operator does."""
    with receiving() as found:
        monkeypatch.setenv("FROSTLINE_WEBHOOK_URL", found.url)
        monkeypatch.setenv("FROSTLINE_WEBHOOK_SECRET", "between us")
        monkeypatch.setenv("FROSTLINE_WEBHOOK_MAX_ATTEMPTS", "1")
        yield found


def change(store: Store, number: int) -> None:
    entry = LedgerEntry(
        number=number, kind="promoted_by_hand", model_digest="a" * 64, version=str(number), previous_version=None,
        train_fingerprint="t", register_fingerprint=None, inputs={}, reasons=["because"],
    )  # fmt: skip
    assert append_entry(store, "m", entry) is not None


def told(receiver: Receiver) -> list[tuple[str, str, list[str]]]:
    bodies = [json.loads(body) for _, body in receiver.got]
    return [(body["event"], body["version"], body["reasons"]) for body in bodies]


def test_each_change_is_told_once_and_in_order(store: Store, receiver: Receiver) -> None:
    change(store, 1), change(store, 2)
    assert tell_changes(store, "m") is None
    change(store, 3)
    assert tell_changes(store, "m") is None
    assert tell_changes(store, "m") is None
    assert told(receiver) == [("frostline.champion.changed", version, ["because"]) for version in "123"]


def test_what_could_not_be_told_is_a_warning_and_told_by_the_next_command(store: Store, receiver: Receiver) -> None:
    receiver.statuses = [200, 500, 200]
    change(store, 1), change(store, 2), change(store, 3)
    problem = tell_changes(store, "m")
    assert problem is not None and "version 2 is champion, and that could not be told" in problem
    assert tell_changes(store, "m") is None
    assert [version for _, version, _ in told(receiver)] == ["1", "2", "2", "3"]
    deliveries = [headers["X-Frostline-Delivery"] for headers, _ in receiver.got]
    assert deliveries[1] == deliveries[2] and len(set(deliveries)) == 3
