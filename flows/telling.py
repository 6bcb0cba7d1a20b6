"""Telling others of each change of champion, and of each model that was refused or waits for approval: by a webhook,
where one is configured, and by Prefect, inside a flow run.

    {store}/register/told/{model_name}/{channel}/{n:08d}           entry n of the ledger was told there, and all before
    {store}/register/told/{model_name}/{channel}.notices/{n:08d}   as was notice n

Each channel has marks of its own, written only by who told it: what is entered while a channel is not there is told
when it is. One that is there for the first time hears of the newest entry and of the newest notice, and of none before.
An entry is told before that is noted, so that none is lost and one may be told twice: its delivery id is the same.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.errors import FrostlineError
from infra.store import Store
from infra.webhook import WebhookSettings, post
from training.ledger import STEP, history
from training.notices import notices

CHANGED = "frostline.champion.changed"
FAILED = "frostline.run.failed"
MODEL_RESOURCE = "frostline.model."
"""Start of the Prefect resource that an event about a model is of."""
KIND_LABEL = "frostline.kind"
"""Label of that resource: automations see labels, and not what else an event tells."""
NOTICED = {
    "awaits_approval": "frostline.approval.awaited",
    "refused_by_gate": "frostline.model.refused",
    "refused_by_hand": "frostline.model.refused",
}


@dataclass(frozen=True)
class Event:
    """What is told, as number `number` of its kind."""

    number: int
    name: str
    delivery: str
    """Equal whenever this is told again."""
    told: dict[str, Any]


@dataclass(frozen=True)
class Story:
    """A log whose entries are told in order."""

    suffix: str
    """Of the folder of its marks."""
    events: Callable[[Store, str], list[Event]]


@dataclass(frozen=True)
class Channel:
    """A way to tell."""

    name: str
    is_there: Callable[[], bool]
    send: Callable[[str, Event], None]
    """(model name, event). Any exception says that it did not arrive."""


def tell_changes(store: Store, model_name: str) -> str | None:
    """Tell what was not told yet, in order. What went wrong, in words: it never undoes a promotion nor fails who made
    it, and the next promotion, rollback or run tells the rest."""
    problems = [_tell(store, model_name, channel, story) for channel in CHANNELS for story in STORIES]
    return " ".join(dict.fromkeys(problem for problem in problems if problem)) or None


def tell_failure(flow_run_id: str, name: str, state: str, message: str | None) -> str | None:
    """By the webhook, where there is one: Prefect knows. What went wrong, in words; it is not told again."""
    event = {"event": FAILED, "flow_run_id": flow_run_id, "flow_run": name, "state": state, "message": message}
    try:
        post(f"{flow_run_id}-{state}", event, WebhookSettings())
    except Exception as error:  # whatever it is, the failure itself is told in its place
        return f"{_why(error)} That {name} is {state} is not told again."
    return None


def _tell(store: Store, model_name: str, channel: Channel, story: Story) -> str | None:
    try:
        if not channel.is_there():
            return None
        folder = f"{STEP}/told/{model_name}/{channel.name}{story.suffix}"
        for event in _untold(store, folder, story.events(store, model_name)):
            channel.send(model_name, event)
            store.create(f"{folder}/{event.number:08d}", b"")
    except Exception as error:  # whatever it is, the promotion stands
        told = f"{model_name}: what became of it could not be told ({channel.name}). {_why(error)}"
        return f"{told} The next promotion, rollback or run tells it."
    return None


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, FrostlineError) else f"found {type(error).__name__}; expected an answer."


def _untold(store: Store, folder: str, events: list[Event]) -> Iterator[Event]:
    told = next((n for n in range(len(events), -1, -1) if store.exists(f"{folder}/{n:08d}")), None)
    if told is None and events:
        told = len(events) - 1
        # Noted first, so that the newest is not lost where it does not arrive.
        store.create(f"{folder}/{told:08d}", b"")
    yield from events[told:]


def _changes(store: Store, model_name: str) -> list[Event]:
    return [
        Event(
            entry.number, CHANGED, f"{model_name}-{entry.number}-{entry.token}",
            entry.model_dump(mode="json", exclude={"token"}),
        )
        for entry in history(store, model_name)
    ]  # fmt: skip


def _notices(store: Store, model_name: str) -> list[Event]:
    return [
        Event(
            notice.number, NOTICED[notice.kind],
            f"{model_name}-notice-{notice.number}-{notice.register_fingerprint[:16]}", notice.model_dump(mode="json"),
        )
        for notice in notices(store, model_name)
    ]  # fmt: skip


def _post(model_name: str, event: Event) -> None:
    post(event.delivery, {"event": event.name, "model": model_name, **event.told}, WebhookSettings())


def _emit(model_name: str, event: Event) -> None:
    """As a Prefect event, which automations can wait for."""
    from prefect.events import emit_event

    resource = {
        "prefect.resource.id": f"{MODEL_RESOURCE}{model_name}",
        "prefect.resource.name": model_name,
        KIND_LABEL: event.told["kind"],
    }
    emit_event(event.name, resource=resource, payload=event.told)


def _is_in_a_flow_run() -> bool:
    """Outside one nobody listens."""
    if "prefect" not in sys.modules:  # its import takes seconds, and no flow runs without it
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return bool(FlowRunContext.get() or TaskRunContext.get())


def _has_an_address() -> bool:
    return WebhookSettings().url is not None


STORIES = (Story("", _changes), Story(".notices", _notices))
CHANNELS = (Channel("webhook", _has_an_address, _post), Channel("prefect", _is_in_a_flow_run, _emit))
