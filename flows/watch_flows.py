"""The `watch` flow: decide whether a recipe's model calls for a retrain, say why, and start one where it does."""

import datetime
from collections.abc import Sequence
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.deployments import run_deployment

from flows.opened import open_workspace
from flows.progress_artifact import ProgressArtifact
from flows.recipe import load_recipe, split_assignments
from flows.retrain import on_failure
from flows.watching import watch_recipe
from training.retrain_rule import RetrainDecision

RETRAIN = "retrain/scheduled"


@flow(
    name="watch",
    flow_run_name="watch-{recipe}",
    persist_result=False,
    on_failure=[on_failure],
    on_crashed=[on_failure],
)
def watch(
    recipe: str = "quickstart",
    profile: str = "laptop",
    assignments: Sequence[str] = (),
    store_uri: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Start a run of `retrain/scheduled` with the same parameters where a trigger of the recipe calls for it: one a
    day for the same champion and the same rows. `dry_run` only says so.

    Returns the object of `frostline watch --json`, and `flow_run_id` of the retrain."""
    recipe_values, profile_values = split_assignments(list(assignments))
    workspace = open_workspace(profile, ProgressArtifact(), store_uri, profile_values)
    decision = watch_recipe(load_recipe(recipe, recipe_values), workspace)
    _publish(decision)
    started = None
    if decision.retrain and not dry_run:
        parameters = {"recipe": recipe, "profile": profile, "assignments": list(assignments), "store_uri": store_uri}
        run: Any = run_deployment(
            RETRAIN, parameters=parameters, timeout=0, as_subflow=False, idempotency_key=_once_a_day(decision)
        )
        started = str(run.id)
        get_run_logger().info("started %s: %s", RETRAIN, run.name)
    return {**decision.model_dump(mode="json"), "flow_run_id": started}


def _once_a_day(decision: RetrainDecision) -> str:
    champion = decision.champion.version if decision.champion else "none"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"watch {decision.model} {champion} {decision.dataset_digest} {today}"


def _publish(decision: RetrainDecision) -> None:
    logger = get_run_logger()
    lines = [f"- {trigger.name}: {trigger.reason}" for trigger in decision.triggers]
    for line in lines:
        logger.info(line)
    verdict = "retrain" if decision.retrain else "nothing calls for a retrain"
    text = "\n".join([f"## {decision.model}: {verdict}", "", *lines])
    create_markdown_artifact(text, key="frostline-watch", description="Whether to retrain, and why")
