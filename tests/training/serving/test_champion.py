"""Who answers when the alias moves, and something goes wrong on the way. Ray Serve is not started."""

import asyncio
import errno
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from infra.errors import ConfigError
from infra.outputs import Draft, OutputRequest, ensure_output
from infra.tracking import ModelVersion
from infra.workspace import Workspace
from training.serving import champion
from training.serving.app import build_app
from training.serving.asking import Asking
from training.serving.champion import Champion
from training.serving.faults import Refused
from training.serving.fleet import Replicas, Served
from training.serving.limits import Limits
from training.serving.work import ModelFacts


def version(number: str) -> ModelVersion:
    return ModelVersion("tiny", number, "run", "file:///nowhere")


@pytest.fixture
def answering(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Champion:
    """Version 1 answers; the alias is on version 2. MLflow is not asked."""
    monkeypatch.setattr(champion, "Registry", lambda _: None)
    monkeypatch.setattr(champion, "num_replicas", lambda _: 1)
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


def test_the_log_says_once_why_the_alias_cannot_be_looked_up_and_when_it_can_again(
    answering: Champion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for resolve in (raising(RuntimeError("no answer")),) * 3 + (lambda: version("1"),) * 2:
        monkeypatch.setattr(answering, "resolve", resolve)
        asyncio.run(answering.look())
    told = ["models:/tiny@champion cannot be looked up: no answer", "models:/tiny@champion is found again"]
    assert capsys.readouterr().out.splitlines() == told


def test_a_log_on_a_full_disk_stops_no_server(answering: Champion, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: PTH123, SIM115  a device, and closing it fails too
    monkeypatch.setattr(sys, "stdout", full)
    try:
        monkeypatch.setattr(answering, "_put_up", raising(OSError(errno.ENOSPC, "No space left on device")))
        asyncio.run(answering.look())
        assert answering.failed is not None and "No space left" in answering.failed.reason
        monkeypatch.setattr(answering, "resolve", raising(RuntimeError("no answer")))
        asyncio.run(answering.look())
        assert answering.registry_fault == "no answer"
    finally:
        with suppress(OSError):
            full.close()


def test_a_version_whose_replicas_were_taken_down_is_put_up_again_and_is_not_ready_until_then(
    answering: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Served("tiny-1-2", None, ModelFacts("tiny", "1", "d" * 64, ("caption",), (), False))
    not_ready: list[str | None] = []

    def puts_up(_: ModelVersion) -> Served:
        not_ready.append(answering.no_replica)
        with pytest.raises(Refused, match="not loaded yet"), answering.asked():
            pass
        return again

    monkeypatch.setattr(answering, "resolve", lambda: version("1"))
    monkeypatch.setattr(answering, "_put_up", puts_up)
    monkeypatch.setattr(champion, "take_down", lambda _: None)
    asyncio.run(answering.look())
    assert not not_ready and answering.no_replica is None, "its replica runs"
    monkeypatch.setattr(champion, "num_replicas", lambda _: None)
    asyncio.run(answering.look())
    assert answering.serving is again and answering.no_replica is None
    assert len(not_ready) == 1 and "taken down" in str(not_ready[0])


def test_a_version_whose_replicas_all_died_is_not_ready_until_serve_has_replaced_one(
    answering: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "resolve", lambda: version("1"))
    monkeypatch.setattr(answering, "_put_up", raising(AssertionError("Serve does that itself")))

    async def ready() -> tuple[int, str | None]:
        app = build_app(Asking(answering, None, Limits()), Limits(), None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answer = await client.get("http://localhost/readyz")
        return answer.status_code, answer.json()["no_replica"]

    found = []
    for number in (0, 1):
        monkeypatch.setattr(champion, "num_replicas", lambda _, number=number: number)
        asyncio.run(answering.look())
        found.append(asyncio.run(ready()))
    assert found == [(503, "none of its replicas runs; Ray Serve starts one"), (200, None)]
    assert answering.failed is None


def test_similar_images_are_looked_for_in_the_named_features_with_the_captions_of_their_own_dataset(
    answering: Champion, workspace: Workspace
) -> None:
    def output(step: str, name: str, inputs: dict[str, str], **identity: str) -> str:
        request = OutputRequest(step, 1, name, {}, inputs)
        ensure_output(workspace.store, request, lambda _: Draft(parts=[], identity=identity, counts={}), {})
        return request.fingerprint

    old, new = (output("ingest", name, {}, dataset_digest=name) for name in ("old", "new"))
    of_new = output("featurize", "features", {"dataset_digest": "new"})
    of_removed = output("featurize", "features", {"dataset_digest": "removed"})
    removed = "0" * 64
    tags = {"frostline.featurize_fingerprint": removed, "frostline.ingest_fingerprint": old}
    registered = ModelVersion("tiny", "1", "run", "file:///nowhere", tags)
    assert answering.searched(registered) == (removed, old), "its own features may be gone, and it serves"
    answering._features = of_new
    assert answering.searched(registered) == (of_new, new)
    answering._features = of_removed
    assert answering.searched(registered) == (of_removed, old)
    answering._features = "a-typing-error"
    with pytest.raises(ConfigError, match=r"--index a-typing-error: no featurize output"):
        answering.searched(registered)


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
    monkeypatch.setattr(champion, "put_up", finds_no_room)
    asyncio.run(stopped_soon())
    assert answering.serving is not None and answering.serving.facts.version == "1"
