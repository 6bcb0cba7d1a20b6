"""Promotion, rollback, approval and refusal as flows, for deployments. Not tried again: who serves may have changed."""

from typing import Any

from prefect import flow, get_run_logger

from flows import promotions
from flows.retrain import on_failure
from training import approving, promoting

TOLD: dict[str, Any] = {"on_failure": [on_failure], "on_crashed": [on_failure]}
"""A webhook hears of it."""


@flow(name="promote", flow_run_name="promote-{model}-{version}", persist_result=False, **TOLD)
def promote(
    model: str, version: str | int, reason: str | None = None, force: bool = False, store_uri: str | None = None
) -> dict[str, Any]:
    """Make a version champion by hand. `version` is a number or an alias; `force` overrules the gate.

    Returns the object of `frostline promote --json`."""
    return _told(
        promotions.change_champion(
            model, store_uri, lambda place: promoting.promote(place, str(version), reason, force)
        )
    )


@flow(name="rollback", flow_run_name="rollback-{model}", persist_result=False, **TOLD)
def rollback(model: str, reason: str | None = None, store_uri: str | None = None) -> dict[str, Any]:
    """Make the former champion champion again. Returns the object of `frostline rollback --json`."""
    return _told(promotions.change_champion(model, store_uri, lambda place: promoting.rollback(place, reason)))


@flow(name="approve", flow_run_name="approve-{model}-{version}", persist_result=False, **TOLD)
def approve(
    model: str, version: str | int = "challenger", reason: str | None = None, store_uri: str | None = None
) -> dict[str, Any]:
    """Make champion what waits for approval. Returns the object of `frostline approve --json`."""
    return _told(
        promotions.change_champion(model, store_uri, lambda place: approving.approve(place, str(version), reason))
    )


@flow(name="refuse", flow_run_name="refuse-{model}-{version}", persist_result=False, **TOLD)
def refuse(
    model: str, version: str | int = "challenger", reason: str | None = None, store_uri: str | None = None
) -> dict[str, Any]:
    """Keep from serving what waits for approval. Returns the object of `frostline refuse --json`."""
    made = promotions.refuse_version(model, str(version), reason, store_uri)
    logger = get_run_logger()
    logger.info("%s: version %s is refused", model, made["version"])
    for warning in made["warnings"]:
        logger.warning(warning)
    return made


def _told(made: dict[str, Any]) -> dict[str, Any]:
    logger = get_run_logger()
    logger.info("%s: version %s is champion", made["model"], made["entry"]["version"])
    for warning in made["warnings"]:
        logger.warning(warning)
    return made
