"""The pipeline as a table: for each step, what it needs, what names its output, and what makes it.

`plan` and every flow read this table, so that a plan cannot disagree with what runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep import pretrained
from data_prep.featurize import featurize, featurize_request
from data_prep.ingest import ingest, ingest_request
from data_prep.pins import pin
from flows.recipe import Recipe
from infra.addresses import without_password
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, ensure_output, take_back
from infra.workspace import Workspace

Outputs = Mapping[str, Manifest]


@dataclass(frozen=True)
class Step:
    """One unit of the pipeline."""

    name: str
    section: str
    """Section of the recipe that configures it; a changed field is told as `section.field`."""
    needs: tuple[str, ...]
    request: Callable[[Recipe, Outputs, Workspace], OutputRequest]
    produce: Callable[[Recipe, Outputs, Attempt, Workspace], Draft]


def steps_of(recipe: Recipe) -> list[Step]:
    """The steps of this recipe, in order. `base` is there only where the recipe has that section."""
    return [step for step in STEPS if step.name != "base" or recipe.base is not None]


def forget(step: Step, recipe: Recipe, outputs: Outputs, workspace: Workspace) -> None:
    take_back(workspace.store, step.request(recipe, outputs, workspace))


def run_step(step: Step, recipe: Recipe, outputs: Outputs, workspace: Workspace) -> tuple[Manifest, bool]:
    """The step's output, made now unless it is there already; and whether it was."""
    request = step.request(recipe, outputs, workspace)
    resources = workspace.profile.model_dump(mode="json")
    return ensure_output(
        workspace.store, request, lambda attempt: step.produce(recipe, outputs, attempt, workspace), resources
    )


def _request_ingest(recipe: Recipe, _: Outputs, workspace: Workspace) -> OutputRequest:
    return ingest_request(recipe.ingest, recipe.name, workspace.store)


def _ingest(recipe: Recipe, _: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    return ingest(recipe.ingest, attempt, workspace)


def _request_base(recipe: Recipe, outputs: Outputs, _: Workspace) -> OutputRequest:
    from training.base.step import base_request

    assert recipe.base is not None
    return base_request(recipe.base, recipe.name, outputs["ingest"])


def _base(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    from training.base.step import base

    assert recipe.base is not None
    return base(recipe.base, outputs["ingest"], attempt, workspace)


def _request_featurize(recipe: Recipe, outputs: Outputs, _: Workspace) -> OutputRequest:
    tower_digest = pretrained.digest_of(recipe.vision_tower, outputs.get("base"))
    return featurize_request(recipe.featurize, recipe.name, outputs["ingest"], tower_digest)


def _featurize(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    tower = pin(recipe.vision_tower, outputs.get("base"), workspace.cache)
    return featurize(recipe.featurize, outputs["ingest"], tower, attempt, workspace)


def _request_train(recipe: Recipe, outputs: Outputs, _: Workspace) -> OutputRequest:
    from training.train import train_request

    lm_digest = pretrained.digest_of(recipe.language_model, outputs.get("base"))
    return train_request(recipe.training, recipe.name, outputs["ingest"], outputs["featurize"], lm_digest)


def _train(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    from training.train import train

    folder = _language_model(recipe, outputs, workspace)
    return train(recipe.training, outputs["ingest"], outputs["featurize"], folder, attempt, workspace)


def _request_evaluate(recipe: Recipe, outputs: Outputs, _: Workspace) -> OutputRequest:
    from training.evaluate import evaluate_request

    return evaluate_request(recipe.evaluation, recipe.name, outputs["train"], outputs["ingest"], outputs["featurize"])


def _evaluate(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    from training.evaluate import EvaluationInputs, evaluate

    inputs = EvaluationInputs(
        model_name=recipe.model_name,
        train=outputs["train"],
        dataset=outputs["ingest"],
        features=outputs["featurize"],
        vision_tower=pin(recipe.vision_tower, outputs.get("base"), workspace.cache),
        language_model_folder=_language_model(recipe, outputs, workspace),
    )
    return evaluate(recipe.evaluation, inputs, attempt, workspace)


def _request_register(recipe: Recipe, outputs: Outputs, workspace: Workspace) -> OutputRequest:
    from training.register import RegisterNames, register_request

    names = RegisterNames(recipe.name, recipe.model_name, without_password(workspace.settings.mlflow))
    return register_request(recipe.gate, names, outputs["train"], outputs["evaluate"], workspace.store)


def _register(recipe: Recipe, outputs: Outputs, attempt: Attempt, workspace: Workspace) -> Draft:
    from flows.registration import register_model

    return register_model(recipe, outputs, attempt, workspace)


def _language_model(recipe: Recipe, outputs: Outputs, workspace: Workspace) -> Path:
    return pretrained.resolve(recipe.language_model, outputs.get("base"), workspace.cache)


STEPS = (
    Step("ingest", "ingest", (), _request_ingest, _ingest),
    Step("base", "base", ("ingest",), _request_base, _base),
    Step("featurize", "featurize", ("ingest", "base"), _request_featurize, _featurize),
    Step("train", "training", ("ingest", "base", "featurize"), _request_train, _train),
    Step("evaluate", "evaluation", ("ingest", "base", "featurize", "train"), _request_evaluate, _evaluate),
    Step("register", "promotion", ("ingest", "base", "featurize", "train", "evaluate"), _request_register, _register),
)
