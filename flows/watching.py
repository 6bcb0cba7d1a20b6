"""`frostline watch`: whether a recipe's model calls for a retrain, from today's rows and those it was trained on."""

import datetime
from contextlib import ExitStack
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from data_prep.dataset import Example, dataset_with, read_examples
from data_prep.drift import mean_features, measure_drift
from data_prep.features import FeatureStore
from data_prep.schemas import SPLITS
from flows.asked import Asked
from flows.evaluating import card_of, evaluate_version, featurize_for
from flows.recipe import Recipe
from flows.steps import STEPS, run_step
from flows.terminal import Bars
from infra.errors import IntegrityError
from infra.logs import engines_to, new_log_file
from infra.outputs import Manifest, manifest_key, read_manifest
from infra.settings import Settings
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from training.champion_scores import champion_outputs_name, champion_scores
from training.evidence import holds_floors
from training.ledger import head
from training.retrain_rule import (
    MINIMUM_NEW_IMAGES,
    ChampionFacts,
    DriftFacts,
    RetrainDecision,
    WatchRule,
    decide_retrain,
)

SECONDS_PER_DAY = 86_400


def watch_command(asked: Asked, as_json: bool) -> None:
    recipe = asked.opened()
    with engines_to(new_log_file(Settings().logs), for_good=True) as (output, error):
        bars = Bars(Console(file=error))
        workspace = asked.workspace(bars, writable=True)
        with bars.shown():
            decision = watch_recipe(recipe, workspace)
    if as_json:
        print(decision.model_dump_json(indent=2), file=output)
        return
    console = Console(file=output)
    console.print(decision_table(decision))
    verdict = f"retrain: frostline run {asked.recipe}" if decision.retrain else "nothing calls for a retrain"
    console.print(f"\n{decision.model}: {verdict}", soft_wrap=True, highlight=False, markup=False)


def decision_table(decision: RetrainDecision) -> Table:
    table = Table("trigger", "retrain", "why", box=None, header_style="bold", pad_edge=False)
    for trigger in decision.triggers:
        table.add_row(trigger.name, "yes" if trigger.fires else "no", trigger.reason)
    return table


def watch_recipe(recipe: Recipe, workspace: Workspace) -> RetrainDecision:
    """Ingest, then ask the recipe's `watch` rule. Features and scores are made only where it asks for them, and kept:
    the retrain goes on from them. Trains and promotes nothing.

    Raises IntegrityError where the champion's training or version is gone, PlatformError where MLflow is away."""
    (ingest,) = (step for step in STEPS if step.name == "ingest")
    dataset, _ = run_step(ingest, recipe, {}, workspace)
    facts = _champion_facts(recipe, dataset, workspace)
    return decide_retrain(recipe.model_name, dataset.identity["dataset_digest"], facts, recipe.watch)


def _champion_facts(recipe: Recipe, dataset: Manifest, workspace: Workspace) -> ChampionFacts | None:
    champion = head(workspace.store, recipe.model_name)
    if champion is None:
        return None
    train = read_manifest(workspace.store, manifest_key("train", champion.train_fingerprint))
    version = Registry(workspace.settings.mlflow).find_version(recipe.model_name, champion.model_digest)
    if train is None or version is None:
        missing = "the training that gave it" if train is None else "its version in MLflow"
        raise IntegrityError(
            f"{recipe.model_name}: {missing} is gone ({champion.model_digest[:12]}…); expected both, to compare with "
            "today's rows. Restore the store or the MLflow server that it was registered in."
        )
    rule, name = recipe.watch, champion_outputs_name(recipe.name)
    then = dataset_with(train.inputs["dataset_digest"], workspace.store)
    grown = None if then is None else Growth(then, dataset, workspace)
    with ExitStack() as engines:
        drift = None
        if then is not None and grown is not None and grown.can_drift(rule):
            card = card_of(version, workspace)
            both = [featurize_for(card, one, name, workspace, engines).manifest for one in (then, dataset)]
            drift = _drift(grown, both[0], both[1], workspace)
    holds, told = _floors(recipe, version, train, dataset, workspace)
    return ChampionFacts(
        version=version.version,
        age_days=_age_days(train),
        num_new_examples=None if grown is None else len(grown.new_examples),
        num_new_images=None if grown is None else len(grown.new_images),
        drift=drift,
        holds_floors=holds,
        floors_told=told,
    )


class Growth:
    """What a dataset has that an earlier one had not. Images are those of `train`: test images, which may be chosen
    otherwise, are no drift."""

    def __init__(self, then: Manifest, now: Manifest, workspace: Workspace) -> None:
        before, today = (_examples(each, workspace) for each in (then, now))
        known = {example.example_id for example in before}
        seen = {example.image_id for example in before}
        self.new_examples = [example.example_id for example in today if example.example_id not in known]
        self.new_images = sorted(_of_train(today) - seen)
        self.trained_images = sorted(_of_train(before))

    def can_drift(self, rule: WatchRule) -> bool:
        return rule.drift_p_value is not None and len(self.new_images) >= MINIMUM_NEW_IMAGES


def _of_train(examples: list[Example]) -> set[str]:
    return {example.image_id for example in examples if example.split == "train"}


def _examples(dataset: Manifest, workspace: Workspace) -> list[Example]:
    return read_examples(dataset, workspace.cache, SPLITS)


def _drift(grown: Growth, then: Manifest, now: Manifest, workspace: Workspace) -> DriftFacts:
    trained = mean_features(FeatureStore(then, workspace.cache), grown.trained_images)
    new = mean_features(FeatureStore(now, workspace.cache), grown.new_images)
    return DriftFacts(**asdict(measure_drift(trained, new)))


def _floors(
    recipe: Recipe, version: ModelVersion, train: Manifest, dataset: Manifest, workspace: Workspace
) -> tuple[bool | None, list[str]]:
    rule = recipe.promotion
    if not recipe.watch.floors or rule is None or not (rule.floors or rule.slice_floors):
        return None, []
    made = evaluate_version(version, train, dataset, recipe.evaluation, champion_outputs_name(recipe.name), workspace)
    return holds_floors(champion_scores(made[-1].manifest, rule, workspace.cache), rule)


def _age_days(train: Manifest) -> float:
    made = datetime.datetime.fromisoformat(train.record.created_at)
    return (datetime.datetime.now(datetime.UTC) - made).total_seconds() / SECONDS_PER_DAY
