"""Telling others of each change of champion: a webhook, where one is configured, and Prefect, inside a flow run.

    {store}/register/told/{model_name}/{channel}/{n:08d}   entry n of the ledger was told there, and all before it

Each of the two is a channel with marks of its own, written only by who told it: what is entered while a channel is not
there is told when it is. One that is there for the first time hears of the newest entry, who serves now, and of none
before. An entry is told before that is noted, so that none is lost and one may be told twice: its delivery id is the
same.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.errors import FrostlineError
from infra.store import Store
from infra.webhook import WebhookSettings, post
from training.ledger import STEP, LedgerEntry, history

EVENT = "frostline.champion.changed"


@dataclass(frozen=True)
class Channel:
    """A way to tell."""

    name: str
    is_there: Callable[[], bool]
    send: Callable[[str, LedgerEntry], None]
    """(model name, entry). Any exception says that it did not arrive."""


def tell_changes(store: Store, model_name: str) -> str | None:
    """Tell what was not told yet, in order. What went wrong, in words: it never undoes a promotion nor fails who made
    it, and the next promotion, rollback or run tells the rest."""
    problems = [_tell(store, model_name, channel) for channel in CHANNELS]
    return " ".join(problem for problem in problems if problem) or None


def _tell(store: Store, model_name: str, channel: Channel) -> str | None:
    try:
        if not channel.is_there():
            return None
        for entry in _untold(store, model_name, channel):
            channel.send(model_name, entry)
            store.create(_mark(model_name, channel.name, entry.number), b"")
    except Exception as error:  # whatever it is, the promotion stands
        told = str(error) if isinstance(error, FrostlineError) else f"found {type(error).__name__}; expected an answer."
        return f"{model_name}: who is champion could not be told ({channel.name}). {told}"
    return None


def _untold(store: Store, model_name: str, channel: Channel) -> Iterator[LedgerEntry]:
    entries = history(store, model_name)
    told = next((n for n in range(len(entries), -1, -1) if store.exists(_mark(model_name, channel.name, n))), None)
    if told is None and entries:
        told = len(entries) - 1
        # Noted first, so that the newest is not lost where it does not arrive.
        store.create(_mark(model_name, channel.name, told), b"")
    yield from entries[told:]


def _mark(model_name: str, channel: str, number: int) -> str:
    return f"{STEP}/told/{model_name}/{channel}/{number:08d}"


def _post(model_name: str, entry: LedgerEntry) -> None:
    event = {"event": EVENT, "model": model_name, **_told(entry)}
    post(f"{model_name}-{entry.number}-{entry.token}", event, WebhookSettings())


def _emit(model_name: str, entry: LedgerEntry) -> None:
    """As a Prefect event, which automations can wait for."""
    from prefect.events import emit_event

    resource = {"prefect.resource.id": f"frostline.model.{model_name}", "prefect.resource.name": model_name}
    emit_event(EVENT, resource=resource, payload=_told(entry))


def _told(entry: LedgerEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude={"token"})


def _is_in_a_flow_run() -> bool:
    """Outside one nobody listens."""
    if "prefect" not in sys.modules:  # its import takes seconds, and no flow runs without it
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return bool(FlowRunContext.get() or TaskRunContext.get())


def _has_an_address() -> bool:
    return WebhookSettings().url is not None


CHANNELS = (Channel("webhook", _has_an_address, _post), Channel("prefect", _is_in_a_flow_run, _emit))
