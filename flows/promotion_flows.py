"""Promotion and rollback as flows, for deployments. Not tried again: who serves may have changed meanwhile."""

from typing import Any

from prefect import flow, get_run_logger

from flows import promotions
from training import promoting


@flow(name="promote", flow_run_name="promote-{model}-{version}", persist_result=False)
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


@flow(name="rollback", flow_run_name="rollback-{model}", persist_result=False)
def rollback(model: str, reason: str | None = None, store_uri: str | None = None) -> dict[str, Any]:
    """Make the former champion champion again. Returns the object of `frostline rollback --json`."""
    return _told(promotions.change_champion(model, store_uri, lambda place: promoting.rollback(place, reason)))


def _told(made: dict[str, Any]) -> dict[str, Any]:
    logger = get_run_logger()
    logger.info("%s: version %s is champion", made["model"], made["entry"]["version"])
    for warning in made["warnings"]:
        logger.warning(warning)
    return made
