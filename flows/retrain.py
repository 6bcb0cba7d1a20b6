"""The `retrain` flow: all steps of a recipe, each a task that reuses or makes its output."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # read when prefect is imported
os.environ.setdefault("DO_NOT_TRACK", "1")
# Prefect's own 20 s are too few on a machine that is busy with something else.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import TerminationSignal
from prefect.logging import get_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from flows.claiming import claimed
from flows.concluding import conclude
from flows.opened import open_workspace
from flows.plan import why_reused
from flows.preflight import check_objectives_can_be_scored
from flows.progress_artifact import ProgressArtifact
from flows.recipe import Recipe, load_recipe, split_assignments
from flows.steps import Outputs, Step, forget, run_step, steps_of
from flows.summary import RunSummary, StepResult, step_result
from flows.telling import tell_failure
from infra import ray
from infra.errors import FrostlineError, Held, Interrupted
from infra.outputs import Manifest
from infra.workspace import Workspace

NEEDS_RAY = {"base", "featurize", "train", "evaluate"}


def _is_passing(_: Any, __: Any, state: State[Any]) -> bool:
    """Configuration and data faults never go away by trying again; platform faults do."""
    try:
        state.result()
    except FrostlineError as error:
        return error.retryable
    except Exception:  # an engine's own error: its class tells nothing
        return False
    return False


def step_task(step: Step, recipe: Recipe, workspace: Workspace) -> Task[..., Any]:
    """The step as a Prefect task that takes and gives manifests only. A reused output shows as `Cached`."""

    @task(
        name=step.name,
        cache_policy=NO_CACHE,
        retries=2,
        retry_delay_seconds=5,
        retry_condition_fn=_is_passing,
        persist_result=False,
    )
    def ensure(**outputs: Manifest) -> Any:
        manifest, reused = run_step(step, recipe, outputs, workspace)
        if not reused:
            return manifest
        get_run_logger().info("%s is reused: %s", step.name, why_reused(manifest))
        return Completed(name="Cached", message=f"reused: {why_reused(manifest)}", data=manifest)

    return ensure


def on_failure(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001  as Prefect calls it
    """For flows that no terminal waits for."""
    if problem := tell_failure(str(flow_run.id), flow_run.name, str(state.name), state.message):
        get_logger().warning(problem)


@flow(
    name="retrain",
    flow_run_name="retrain-{recipe}",
    persist_result=False,
    validate_parameters=True,
    on_failure=[on_failure],
    on_crashed=[on_failure],
)
def retrain(
    recipe: str = "quickstart", profile: str = "laptop", assignments: Sequence[str] = (), store_uri: str | None = None
) -> dict[str, Any] | State[Any]:
    """Ingest, featurize, train, evaluate and register; what is there already is reused.

    `assignments` are `path.to.key=value` overrides of the recipe. Returns the object of `frostline run --json`."""
    return open_and_run(recipe, profile, assignments, store_uri, until=None)


def open_and_run(
    recipe: str, profile: str, assignments: Sequence[str], store_uri: str | None, until: str | None
) -> dict[str, Any] | State[Any]:
    """`run_recipe` from a flow's parameters. Where another one is at work and the recipe says so: `Skipped`. Where this
    process is asked to end, by another retrain or by SIGTERM: `Cancelled`, which is no failure."""
    recipe_values, profile_values = split_assignments(list(assignments))
    opened = load_recipe(recipe, recipe_values)
    workspace = open_workspace(profile, ProgressArtifact(), store_uri, profile_values)
    try:
        with claimed(opened, workspace, get_run_logger().warning, flow_run.get_id()) as holding:
            return run_recipe(opened, holding, until)[0].model_dump(mode="json")
    except Held as held:
        return Completed(name="Skipped", message=str(held))
    except Interrupted as interrupted:
        return Cancelled(message=str(interrupted))
    except TerminationSignal:
        return Cancelled(message="stopped by SIGTERM. Start again to go on from there.")


def run_recipe(
    recipe: Recipe, workspace: Workspace, until: str | None = None, forced: frozenset[str] = frozenset()
) -> tuple[RunSummary, dict[str, Manifest]]:
    """Run the steps in order inside a flow run, up to and with `until`. Ray starts when a step first needs it."""
    check_objectives_can_be_scored(recipe, until)
    outputs: dict[str, Manifest] = {}
    results: list[StepResult] = []
    with ExitStack() as engines:
        for step in steps_of(recipe):
            started = time.monotonic()
            if step.name in forced:
                forget(step, recipe, outputs, workspace)
            if step.name in NEEDS_RAY and not _is_there(step, recipe, outputs, workspace):
                engines.enter_context(ray.connected(workspace.profile.ray, workspace.settings.logs))
            inputs = {name: outputs[name] for name in step.needs if name in outputs}
            run_task = step_task(step, recipe, workspace)
            state: Any = run_task(**inputs, return_state=True)
            outputs[step.name] = state.result()
            results.append(step_result(outputs[step.name], state.name == "Cached", started, workspace))
            if step.name == until:
                break
    summary = conclude(results, outputs, workspace, asks_mlflow=True)
    for warning in summary.warnings:
        get_run_logger().warning(warning)
    publish(summary, outputs)
    return summary, outputs


def _is_there(step: Step, recipe: Recipe, outputs: Outputs, workspace: Workspace) -> bool:
    return workspace.store.exists(step.request(recipe, outputs, workspace).manifest_key)


def publish(summary: RunSummary, outputs: Mapping[str, Manifest]) -> None:
    """Steps, metrics, decision and the link to the report as Prefect artifacts."""
    rows = [step.model_dump(include={"name", "reused", "seconds", "rows", "fingerprint"}) for step in summary.steps]
    create_table_artifact(rows, key="frostline-steps", description="Steps: reused or run")
    if summary.metrics:
        table = [
            {"metric": name, "score": round(value, 4), **_controls(name, summary)}
            for name, value in summary.metrics.items()
        ]
        create_table_artifact(table, key="frostline-metrics", description="Test split, against the swapped images")
    if summary.report_uri is not None:
        create_link_artifact(summary.report_uri, key="frostline-report", description="Evaluation report")
    if "register" in outputs and summary.model is not None:
        reasons = "\n".join(f"- {reason}" for reason in outputs["register"].facts["promotion"]["reasons"])
        aliases = ", ".join(summary.model.aliases) or "no alias"
        title = f"## {summary.model.name} version {summary.model.version}: {aliases}"
        text = f"{title}\n\n{reasons}\n\n[Report]({summary.report_uri})\n"
        create_markdown_artifact(text, key="frostline-decision", description="Promotion decision with its reasons")


def _controls(name: str, summary: RunSummary) -> dict[str, float | None]:
    told = {"images swapped": summary.control, "no image": summary.blind}
    return {how: round(found[name], 4) if name in found else None for how, found in told.items()}


def _start_server() -> None:
    """Start Prefect's own server, where no shared one is configured, deaf to SIGINT: Ctrl-C at a terminal reaches
    every process of the group, and a run needs its server to stop in order. The blocked signal is inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_flow(
    recipe: Recipe, workspace: Workspace, until: str | None, forced: frozenset[str]
) -> tuple[RunSummary, dict[str, Manifest]]:
    """`run_recipe` as a flow run of its own, for callers that hold the recipe and a terminal already."""

    @flow(name="retrain", flow_run_name=f"retrain-{recipe.name}", persist_result=False)
    def retrain_here() -> Any:
        return run_recipe(recipe, workspace, until, forced)

    _start_server()
    found: Any = retrain_here()
    return cast(tuple[RunSummary, dict[str, Manifest]], found)
