"""Telling others of each change of champion: Prefect, inside a flow run, and a webhook, where one is configured.

    {store}/register/told/{model_name}/{n:08d}   entry n of the ledger was told

An entry is told before that is noted, so that none is lost and one may be told twice: its delivery id is the same.
"""

import sys
from collections.abc import Iterator
from typing import Any

from infra.errors import PlatformError
from infra.store import Store
from infra.webhook import WebhookSettings, post
from training.ledger import STEP, LedgerEntry, history

EVENT = "frostline.champion.changed"


def tell_changes(store: Store, model_name: str) -> str | None:
    """Tell what was not told yet, in order. What went wrong, in words: it never undoes a promotion, and the next
    command tells the rest."""
    settings = WebhookSettings()
    for entry in _untold(store, model_name):
        told = entry.model_dump(mode="json", exclude={"token"})
        try:
            post(f"{model_name}-{entry.number}-{entry.token}", {"event": EVENT, "model": model_name, **told}, settings)
        except PlatformError as error:
            return f"version {entry.version} is champion, and that could not be told. {error}"
        _emit(model_name, told)
        store.create(_told(model_name, entry), b"")
    return None


def _untold(store: Store, model_name: str) -> Iterator[LedgerEntry]:
    entries = history(store, model_name)
    first = next((n for n in range(len(entries), 0, -1) if store.exists(_told(model_name, entries[n - 1]))), 0)
    yield from entries[first:]


def _told(model_name: str, entry: LedgerEntry) -> str:
    return f"{STEP}/told/{model_name}/{entry.number:08d}"


def _emit(model_name: str, told: dict[str, Any]) -> None:
    """As a Prefect event, which automations can wait for. Outside a flow run nobody listens."""
    if "prefect" not in sys.modules:  # its import takes seconds, and no flow runs without it
        return
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.events import emit_event

    if FlowRunContext.get() or TaskRunContext.get():
        resource = {"prefect.resource.id": f"frostline.model.{model_name}", "prefect.resource.name": model_name}
        emit_event(EVENT, resource=resource, payload=told)
