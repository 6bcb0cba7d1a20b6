"""Putting the `register` step together: the challenger's outputs, and the champion's scores on the same test rows."""

from flows.evaluating import evaluate_version
from flows.recipe import Recipe
from flows.steps import Outputs
from infra.errors import IntegrityError
from infra.outputs import Attempt, Draft, Manifest, manifest_key, read_manifest
from infra.tracking import Registry
from infra.workspace import Workspace
from training.champion_scores import champion_evaluation
from training.ledger import LedgerEntry
from training.register import Registration, champion_of, register
from training.version import VersionParts


def register_model(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    """Register the trained model and decide whether it serves."""
    champion = champion_of(attempt.request, attempt.store)
    evaluation = outputs["evaluate"]
    champions: Manifest | None = None
    if champion is not None:
        champions = champion_evaluation(champion, evaluation, attempt.store)
        if champions is None:
            evaluate_champion(champion, recipe, outputs, workspace)
            champions = champion_evaluation(champion, evaluation, attempt.store)
    parts = VersionParts(
        dataset=outputs["ingest"],
        features=outputs["featurize"],
        train=outputs["train"],
        base=outputs.get("base"),
        vision_tower=recipe.vision_tower,
        language_model=recipe.language_model,
    )
    registration = Registration(recipe.gate, recipe.model_name, parts, evaluation, champions)
    return register(registration, attempt, workspace)


def evaluate_champion(champion: LedgerEntry, recipe: Recipe, outputs: Outputs, workspace: Workspace) -> None:
    """On today's test split, through its own tower and language model."""
    key = manifest_key("train", champion.train_fingerprint)
    train = read_manifest(workspace.store, key)
    version = Registry(workspace.settings.mlflow).find_version(recipe.model_name, champion.model_digest)
    if train is None or version is None:
        raise IntegrityError(
            f"{recipe.model_name}: the champion {champion.model_digest[:12]}… has "
            f"{'no output ' + key if train is None else 'no version in MLflow'}; expected both, to compare with it. "
            "Restore the store or the MLflow server that it was registered in."
        )
    name = f"{recipe.name}.champion"  # not the recipe's own log, which `plan` compares with
    evaluate_version(version, train, outputs["ingest"], recipe.evaluation, name, workspace)
