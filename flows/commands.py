"""What the commands do: open, plan, run, show."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from flows.asked import Asked
from flows.claiming import claimed
from flows.concluding import conclude
from flows.opened import open_workspace
from flows.plan import make_plan
from flows.planned_memory import check_training, plan_memory
from flows.preflight import check_models, check_objectives_can_be_scored
from flows.recipe import Recipe
from flows.steps import STEPS
from flows.summary import RunSummary, newest_report, report_path, step_result
from flows.terminal import Bars, plan_table, show_memory, show_summary
from infra.addresses import without_password
from infra.errors import ConfigError
from infra.logs import engines_to, new_log_file
from infra.outputs import Manifest
from infra.progress import Silent
from infra.workspace import Workspace
from infra.yaml_config import suggestion


def run_command(asked: Asked, until: str | None, force: frozenset[str], as_json: bool) -> None:
    opened = asked.opened()
    _check_steps([*filter(None, [until]), *force])
    reading = asked.workspace(Silent(), writable=False)
    planned, outputs = make_plan(opened, reading, until, force)
    if planned.all_reused:
        summary = _all_reused(dict(outputs), reading)
        _finish(Console(), summary, dict(outputs), reading, as_json, log=None)
        return
    check_objectives_can_be_scored(opened, until)
    log = new_log_file(reading.settings.logs)
    with engines_to(log, for_good=True) as (output, error):
        terminal = Console(file=error)
        bars = Bars(terminal)
        for console in (terminal, Console(file=sys.stdout, width=160)):  # to the person and to the log
            console.print(plan_table(planned))
        workspace = asked.workspace(bars, writable=True)
        check_models(opened, planned, workspace)
        if planned.trains:
            check_training(opened, outputs, workspace)
        terminal.print(f"\nStarting Prefect (about 10 s). The engines' own log: {log}", soft_wrap=True, highlight=False)
        with bars.shown():
            summary, made = _run_in_flow(opened, workspace, bars, until, force)
        _finish(Console(file=output), summary, made, workspace, as_json, log)


def _run_in_flow(
    recipe: Recipe, workspace: Workspace, bars: Bars, until: str | None, force: frozenset[str]
) -> tuple[RunSummary, dict[str, Manifest]]:
    from flows.retrain import in_flow
    from flows.progress_artifact import ProgressArtifact  # isort: skip  retrain sets Prefect's environment first

    def tell(told: str) -> None:
        bars.console.print(told, soft_wrap=True, highlight=False, markup=False)

    with claimed(recipe, workspace, tell) as holding:
        return in_flow(recipe, replace(holding, progress=ProgressArtifact(bars)), until, force)


def _all_reused(outputs: dict[str, Manifest], workspace: Workspace) -> RunSummary:
    results = [step_result(manifest, True, time.monotonic(), workspace) for manifest in outputs.values()]
    return conclude(results, outputs, workspace, asks_mlflow=False)


def _finish(
    console: Console,
    summary: RunSummary,
    outputs: dict[str, Manifest],
    workspace: Workspace,
    as_json: bool,
    log: Path | None,
) -> None:
    if as_json:
        print(summary.model_dump_json(indent=2), file=console.file)
        return
    show_summary(console, summary, outputs, _hints(summary, outputs, workspace, log))


def _hints(
    summary: RunSummary, outputs: dict[str, Manifest], workspace: Workspace, log: Path | None
) -> list[tuple[str, str]]:
    settings = workspace.settings
    hints: list[tuple[str, str]] = []
    if "evaluate" in outputs:
        hints.append(("report", str(report_path(newest_report(outputs), workspace))))
    if summary.model is not None:
        hints.append(("use it", f"frostline caption {summary.model.uri} IMAGE"))
        is_server = settings.mlflow.startswith("http")
        shown = without_password(settings.mlflow)
        hints.append(("MLflow UI", shown if is_server else f"mlflow ui --backend-store-uri {shown}"))
    hints.append(("Prefect UI", f"PREFECT_HOME={settings.var_dir.absolute() / 'prefect'} prefect server start"))
    hints.append(("store", workspace.store.uri))
    if log is not None:
        hints.append(("log", str(log)))
    return hints


def _check_steps(names: Sequence[str]) -> None:
    known = [step.name for step in STEPS]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no step {name!r}; expected one of {', '.join(known)}.{suggestion(name, known)}"
            )


def plan_command(asked: Asked, until: str | None, as_json: bool) -> None:
    opened = asked.opened()
    _check_steps([*filter(None, [until])])
    workspace = asked.workspace(Silent(), writable=False)
    planned, outputs = make_plan(opened, workspace, until)
    console = Console(quiet=as_json)
    console.print(plan_table(planned))  # at once: what follows takes seconds
    try:
        check_objectives_can_be_scored(opened, until)
    except ConfigError as error:
        planned = planned.model_copy(update={"refusal": str(error)})
        console.print(f"\n`frostline run` would refuse: {error}", soft_wrap=True, highlight=False, markup=False)
    if planned.trains:
        memory = plan_memory(opened, outputs, workspace)
        planned = planned.model_copy(update={"memory": memory})
        show_memory(console, memory)
    if as_json:
        print(planned.model_dump_json(indent=2))


def status_command(store: str | None, as_json: bool) -> None:
    from flows.status import read_status, show_status

    workspace = open_workspace("laptop", Silent(), store, writable=False)
    found = read_status(workspace)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show_status(Console(), found)
