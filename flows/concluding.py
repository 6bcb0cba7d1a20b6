"""The end of a run: what an earlier one left to do about its model is done, what was not told yet is told."""

from flows.summary import RunSummary, StepResult, summarise
from flows.telling import tell_changes
from infra.errors import FrostlineError
from infra.outputs import Manifest
from infra.workspace import Workspace


def conclude(
    results: list[StepResult], outputs: dict[str, Manifest], workspace: Workspace, asks_mlflow: bool
) -> RunSummary:
    """Where the registration is reused, aliases that a crash left behind are set, and with `asks_mlflow` a champion
    whom a person chose there is entered: to ask takes seconds. What goes wrong is a warning: the outputs stand."""
    problems: list[str | None] = []
    if "register" in outputs:
        name = outputs["register"].facts["model"]["name"]
        if any(result.name == "register" and result.reused for result in results):
            problems.append(_mirrored(workspace, name, asks_mlflow))
        problems.append(tell_changes(workspace.store, name))
    summary = summarise(results, outputs, workspace)
    return summary.model_copy(update={"warnings": [problem for problem in problems if problem]})


def _mirrored(workspace: Workspace, model_name: str, asks_mlflow: bool) -> str | None:
    from infra.tracking import Registry
    from training.candidate import ModelPlace
    from training.champion import is_behind, mirror

    tracking_uri = workspace.settings.mlflow
    try:
        if asks_mlflow or is_behind(workspace.store, model_name, tracking_uri):
            mirror(ModelPlace(workspace.store, Registry(tracking_uri), model_name))
    except FrostlineError as error:
        return f"{model_name}: whether MLflow's aliases follow the ledger is not known. {error}"
    return None
