"""`frostline notify`: Prefect automations that send what a team wants to hear of through a notification block."""

import json
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.prefect_server import prefect_client
from flows.telling import CHANGED, KIND_LABEL, MODEL_RESOURCE, NOTICED
from infra.errors import ConfigError

PREFIX = "frostline: "
PROMOTED = ["promotion", "approved", "promoted_by_hand", "alias_moved_by_hand"]
REASONS = "{% for reason in event.payload.reasons %}- {{ reason }}\n{% endfor %}"
MODEL = "{{ event.resource.name }} version {{ event.payload.version }}"


@dataclass(frozen=True)
class Wanted:
    """One automation: which events it waits for, and what it sends."""

    name: str
    events: frozenset[str]
    subject: str
    body: str
    match: dict[str, Any] = field(default_factory=lambda: {"prefect.resource.id": f"{MODEL_RESOURCE}*"})
    match_related: dict[str, Any] = field(default_factory=dict)


def _of_model(name: str, event: str, kinds: list[str], told: str) -> Wanted:
    match = {"prefect.resource.id": f"{MODEL_RESOURCE}*", KIND_LABEL: kinds}
    return Wanted(name, frozenset({event}), f"{MODEL} {told}", REASONS, match)


WANTED = (
    Wanted(
        "failure",
        frozenset({"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}),
        "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}",
        "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.frostline"},
    ),
    _of_model("refusal", NOTICED["refused_by_gate"], ["refused_by_gate", "refused_by_hand"], "was refused"),
    _of_model("approval", NOTICED["awaits_approval"], ["awaits_approval"], "waits for approval"),
    _of_model("promotion", CHANGED, PROMOTED, "is champion"),
    _of_model("rollback", CHANGED, ["rollback"], "is champion again"),
)


def notify_command(block: str, as_json: bool) -> None:
    made = notify_by(block)
    if as_json:
        print(json.dumps(made, indent=2))
        return
    table = Table("automation", "", box=None, header_style="bold", pad_edge=False)
    for one in made:
        table.add_row(one["name"], "changed" if one["was_there"] else "made")
    Console().print(table)


def notify_by(block: str) -> list[dict[str, Any]]:
    """Make or change one automation for each of WANTED, which sends through `block` (TYPE/NAME as in Prefect).

    Raises ConfigError where there is no such block or it notifies nobody, PlatformError where Prefect is away."""
    with prefect_client("that is to send notifications", "Start it, then try again.") as client:
        block_id = _block_id(client, block)
        return [_ensured(client, wanted, block_id) for wanted in WANTED]


def _block_id(client: Any, block: str) -> Any:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = block.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind, include_secrets=False) if name else None
    except ObjectNotFound:
        found = None
    if found is None or "notify" not in (found.block_schema.capabilities if found.block_schema else []):
        told = "a block that does not notify" if found is not None else "no such block"
        raise ConfigError(
            f"{block}: {told} was found in Prefect; expected a notification block as TYPE/NAME, such as "
            "slack-webhook/team. Make one in Prefect's UI under Blocks."
        )
    return found.id


def _ensured(client: Any, wanted: Wanted, block_id: Any) -> dict[str, Any]:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    automation = AutomationCore(
        name=PREFIX + wanted.name,
        description="Made by `frostline notify`.",
        trigger=EventTrigger(
            expect=set(wanted.events),
            match=wanted.match,
            match_related=wanted.match_related,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=block_id, subject=wanted.subject, body=wanted.body)],
    )
    there = client.read_automations_by_name(automation.name)
    if there:
        client.update_automation(there[0].id, automation)
    else:
        client.create_automation(automation)
    return {"name": automation.name, "was_there": bool(there)}
