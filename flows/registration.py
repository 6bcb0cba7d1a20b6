"""Putting the `register` step together: the challenger's outputs, and the champion's scores on the same test rows."""

from flows.evaluating import evaluate_version
from flows.recipe import Recipe
from flows.steps import Outputs
from infra.errors import IntegrityError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, read_manifest
from infra.tracking import Registry
from infra.workspace import Workspace
from training.candidate import training_key
from training.champion_scores import champion_evaluation, champion_outputs_name
from training.evaluation_config import EvaluationConfig
from training.ledger import LedgerEntry
from training.register import Registration, champion_of, register
from training.version import VersionParts


def register_model(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    """Register the trained model and decide whether it serves."""
    dataset, evaluation = outputs["ingest"], outputs["evaluate"]
    champion = champion_evaluated(attempt.request, evaluation, dataset, workspace)
    parts = VersionParts(
        dataset=dataset,
        features=outputs["featurize"],
        train=outputs["train"],
        base=outputs.get("base"),
        vision_tower=recipe.vision_tower,
        language_model=recipe.language_model,
    )
    return register(Registration(recipe.gate, recipe.model_name, parts, evaluation, champion), attempt, workspace)


def champion_evaluated(
    request: OutputRequest, evaluation: Manifest, dataset: Manifest, workspace: Workspace
) -> Manifest | None:
    """The evaluation, on the test rows of `evaluation`, of the champion that a `register` request names: the store's,
    or made now. None where there is no champion."""
    champion = champion_of(request, workspace.store)
    if champion is None:
        return None
    found = champion_evaluation(champion, evaluation, workspace.store)
    if found is None:
        _evaluate(champion, request, evaluation, dataset, workspace)
        found = champion_evaluation(champion, evaluation, workspace.store)
    return found


def _evaluate(
    champion: LedgerEntry, request: OutputRequest, evaluation: Manifest, dataset: Manifest, workspace: Workspace
) -> None:
    """Through its own tower and language model."""
    model_name = request.inputs["model_name"]
    version = Registry(workspace.settings.mlflow).find_version(model_name, champion.model_digest)
    key = training_key(version.tags) if version else None
    train = read_manifest(workspace.store, key) if key else None
    if train is None or version is None:
        raise IntegrityError(
            f"{model_name}: the champion {champion.model_digest[:12]}… has "
            f"{f'no output {key}' if key else 'no version in MLflow'}; expected both, to compare with it. "
            "Restore the store or the MLflow server that it was registered in."
        )
    config = EvaluationConfig.model_validate(evaluation.config)
    evaluate_version(version, train, dataset, config, champion_outputs_name(request.name), workspace)
