import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from receiver import Receiver

from flows.retrain import on_failure
from flows.telling import tell_changes, tell_failure
from infra.errors import PlatformError
from infra.store import Store
from training.ledger import LedgerEntry, append_entry
from training.notices import Kind, Notice, note

REPOSITORY = Path(__file__).resolve().parents[2]


def change(store: Store, number: int) -> None:
    entry = LedgerEntry(
        number=number, kind="promoted_by_hand", model_digest="a" * 64, version=str(number), previous_version=None,
        train_fingerprint="t", register_fingerprint=None, inputs={}, reasons=["because"],
    )  # fmt: skip
    assert append_entry(store, "m", entry) is not None


def told(receiver: Receiver) -> list[tuple[str, str, list[str]]]:
    bodies = [json.loads(body) for _, body in receiver.got]
    return [(body["event"], body["version"], body["reasons"]) for body in bodies]


def versions_told(receiver: Receiver) -> str:
    return "".join(version for _, version, _ in told(receiver))


def test_each_change_is_told_once_and_in_order(store: Store, receiver: Receiver) -> None:
    for number in (1, 2, 3):
        change(store, number)
        assert tell_changes(store, "m") is None
    assert tell_changes(store, "m") is None
    assert told(receiver) == [("frostline.champion.changed", version, ["because"]) for version in "123"]


def test_what_could_not_be_told_is_a_warning_and_told_by_the_next_command(store: Store, receiver: Receiver) -> None:
    receiver.statuses = [200, 500, 200]
    change(store, 1)
    assert tell_changes(store, "m") is None
    change(store, 2), change(store, 3)
    problem = tell_changes(store, "m")
    assert (
        problem is not None and "m: what became of it could not be told (webhook). webhook: the receiver was" in problem
    )
    assert problem.endswith("The next promotion, rollback or run tells it.")
    assert tell_changes(store, "m") is None
    assert versions_told(receiver) == "1223"
    deliveries = [headers["X-Frostline-Delivery"] for headers, _ in receiver.got]
    assert deliveries[1] == deliveries[2] and len(set(deliveries)) == 3


def test_an_address_configured_later_hears_who_serves_and_each_change_from_then_on(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.delenv("FROSTLINE_WEBHOOK_URL")
        for number in (1, 2, 3):
            change(store, number)
            assert tell_changes(store, "m") is None
    receiver.statuses = [500, 200]
    assert "could not be told" in str(tell_changes(store, "m"))
    with monkeypatch.context() as without:  # a machine where it is not set
        without.delenv("FROSTLINE_WEBHOOK_URL")
        change(store, 4)
        assert tell_changes(store, "m") is None
    assert tell_changes(store, "m") is None
    assert versions_told(receiver) == "334"


def test_a_failure_that_could_not_be_told_is_not_told_again_and_says_so(receiver: Receiver) -> None:
    receiver.statuses = [500]
    problem = tell_failure("id", "monday", "Failed", "no rows")
    assert problem is not None and problem.startswith("webhook: the receiver was answered 500")
    assert problem.endswith("That monday is Failed is not told again.") and "tells it" not in problem


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Versions that Prefect was told of; where this is asked for, it has been imported."""
    import prefect.events

    found: list[str] = []
    monkeypatch.setattr(prefect.events, "emit_event", lambda *_, payload, **__: found.append(payload["version"]))
    return found


def test_prefect_is_told_by_the_next_flow_run_what_no_flow_run_did(store: Store, events: list[str]) -> None:
    change(store, 1)
    with flow_run():
        tell_changes(store, "m")
    change(store, 2)
    tell_changes(store, "m")
    assert events == ["1"]
    with flow_run():
        tell_changes(store, "m")
        tell_changes(store, "m")
    assert events == ["1", "2"]


def flow_run() -> Any:
    from prefect.context import FlowRunContext

    return FlowRunContext.model_construct()


def test_one_that_does_not_hear_keeps_nothing_from_the_other(
    store: Store, receiver: Receiver, events: list[str]
) -> None:
    receiver.statuses = [500]
    change(store, 1)
    with flow_run():
        assert "(webhook)" in str(tell_changes(store, "m"))
    assert events == ["1"]


def test_whatever_fails_while_telling_is_a_warning(
    store: Store, receiver: Receiver, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect.events

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("of whatever kind")

    def reads_only(*_: Any) -> None:
        raise PlatformError("the store is full")

    change(store, 1)
    with monkeypatch.context() as patch, flow_run():
        patch.setattr(prefect.events, "emit_event", fails)
        patch.setenv("FROSTLINE_WEBHOOK_TIMEOUT_SECONDS", "soon")
        problem = str(tell_changes(store, "m"))
        assert "(webhook). found ValidationError" in problem and "(prefect). found RuntimeError" in problem
    with monkeypatch.context() as patch, flow_run():
        patch.setattr(store, "create", reads_only)
        assert str(tell_changes(store, "m")).count("the store is full") == 2
    with flow_run():
        assert tell_changes(store, "m") is None
    assert (versions_told(receiver), events) == ("1", ["1", "1"]), "twice where it could not be noted"


def test_refusals_and_waiting_models_are_told_too_each_once(store: Store, receiver: Receiver) -> None:
    kinds: list[Kind] = ["awaits_approval", "refused_by_hand"]
    for number, kind in enumerate(kinds):
        note(store, "m", Notice(kind=kind, version="1", register_fingerprint="f" * 64, reasons=["because"]))
        if number:
            change(store, 1)
        assert tell_changes(store, "m") is None
    assert tell_changes(store, "m") is None
    assert told(receiver) == [
        ("frostline.approval.awaited", "1", ["because"]),
        ("frostline.champion.changed", "1", ["because"]),
        ("frostline.model.refused", "1", ["because"]),
    ]
    assert len({headers["X-Frostline-Delivery"] for headers, _ in receiver.got}) == 3


def test_whatever_is_deployed_tells_of_its_failure_and_of_its_crash() -> None:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert len(deployments) == 12
    for each in deployments:
        file, _, name = each["entrypoint"].partition(":")
        flow = getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)
        assert flow.on_failure_hooks == flow.on_crashed_hooks == [on_failure], each["entrypoint"]
