"""Who answers when the alias moves, and something goes wrong on the way. Ray Serve is not started."""

import asyncio
import errno
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from infra.tracking import ModelVersion
from infra.workspace import Workspace
from training.serving import champion
from training.serving.champion import Champion
from training.serving.fleet import Replicas, Served
from training.serving.work import ModelFacts


def version(number: str) -> ModelVersion:
    return ModelVersion("tiny", number, "run", "file:///nowhere")


@pytest.fixture
def answering(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Champion:
    """Version 1 answers; the alias is on version 2. MLflow is not asked."""
    monkeypatch.setattr(champion, "Registry", lambda _: None)
    found = Champion("models:/tiny@champion", workspace, Replicas())
    found._switch(Served("tiny-1-1", None, ModelFacts("tiny", "1", "d" * 64, ("caption",), (), False)))
    monkeypatch.setattr(found, "resolve", lambda: version("2"))
    return found


def raising(error: Exception) -> Any:
    def raises(*_: object) -> None:
        raise error

    return raises


def test_a_full_disk_keeps_the_next_version_from_serving_and_not_the_server_from_answering(
    answering: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champion, "read_candidate", lambda *_: None)
    monkeypatch.setattr(champion, "fetch_package", raising(OSError(errno.ENOSPC, "No space left on device")))
    asyncio.run(answering.look())
    assert answering.serving is not None and answering.serving.facts.version == "1"
    assert answering.failed is not None and "No space left" in answering.failed.reason and not answering.failed.lasting
    assert b"frostline_swap_failing 1.0" in answering.metrics.text()


def test_a_registry_that_fails_in_its_own_way_is_told_and_asked_again(
    answering: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "resolve", raising(RuntimeError("no answer")))
    asyncio.run(answering.look())
    assert answering.registry_fault == "no answer" and answering.failed is None


def test_a_former_version_that_cannot_be_taken_down_costs_nothing_but_its_memory(
    answering: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_one = Served("tiny-2-2", None, ModelFacts("tiny", "2", "e" * 64, ("caption",), (), False))
    monkeypatch.setattr(answering, "_put_up", lambda _: next_one)
    monkeypatch.setattr(champion, "take_down", raising(RuntimeError("the controller is away")))
    asyncio.run(answering.look())
    assert answering.serving is next_one


@pytest.mark.timeout(30)
def test_a_server_that_is_stopped_does_not_wait_for_a_replica_that_finds_no_room(
    answering: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finds_no_room(*arguments: Any) -> None:
        given_up: Callable[[], bool] = arguments[-1]
        while not given_up():
            time.sleep(0.01)
        raise RuntimeError("given up")

    async def stopped_soon() -> None:
        looking = asyncio.create_task(answering.look())
        await asyncio.sleep(0.1)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking

    for name in ("read_candidate", "fetch_package"):
        monkeypatch.setattr(champion, name, lambda *_: None)
    monkeypatch.setattr(champion, "num_replicas", lambda _: 1)
    monkeypatch.setattr(champion, "put_up", finds_no_room)
    asyncio.run(stopped_soon())
    assert answering.serving is not None and answering.serving.facts.version == "1"
