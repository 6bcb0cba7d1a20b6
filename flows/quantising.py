"""A registered version made smaller: quantised, evaluated as it was itself, and registered where it is as good."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.evaluating import card_of, ensured, evaluate_version, language_model_folder
from flows.telling import tell_changes
from infra.addresses import without_password
from infra.disk import scratch_folder
from infra.errors import ConfigError, IntegrityError
from infra.outputs import Attempt, Draft, Manifest, manifest_key, read_manifest
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from training.candidate import ModelPlace, read_candidate
from training.champion_scores import champion_outputs_name
from training.evaluation_config import EvaluationConfig
from training.promoting import doubts
from training.promotion import Promotion
from training.promotion_rule import PromotionRule

if TYPE_CHECKING:
    from training.package import ModelCard
    from training.quantising.speed import Figures
    from training.version import VersionParts

SUFFIX = "-int8"


@dataclass(frozen=True)
class Original:
    """A registered version, and what the store knows of it."""

    version: ModelVersion
    card: "ModelCard"
    train: Manifest
    dataset: Manifest
    base: Manifest | None
    features: Manifest
    evaluation: Manifest
    rule: PromotionRule
    recipe: str


@dataclass(frozen=True)
class Quantised:
    """What came of it."""

    original: Original
    evaluation: Manifest
    figures: "dict[str, Figures]"
    promotion: Promotion
    registered: Manifest | None
    """The `register` output; None where the gate refused it."""
    warnings: list[str]


def quantise_version(model_uri: str, folder: Path, max_loss: float, workspace: Workspace) -> Quantised:
    """Fill a new or empty folder with the int8 model, and register it as NAME-int8 where the gate lets it pass. What is
    there already is reused.

    Raises ConfigError where the version is in int8 already, or a recipe's gate or a person did not let it pass."""
    from training.export import check_is_new, filling
    from training.version import packaged

    check_is_new(folder)
    original = read_original(model_uri, workspace)
    quantised, evaluation = _made(original, workspace)
    with scratch_folder("int8") as scratch:
        name = original.version.name + SUFFIX
        package = packaged(scratch / "package", name, _parts(original, quantised), evaluation, workspace.cache).folder
        figures = _measured(original, package, workspace)
        promotion, registered = _decided(original, quantised, evaluation, max_loss, workspace)
        with filling(folder) as filled:  # last: started again after a fault, it finds the folder empty
            shutil.copytree(package, filled, dirs_exist_ok=True)
    problem = tell_changes(workspace.store, name) if registered else None
    return Quantised(original, evaluation, figures, promotion, registered, [problem] if problem else [])


def read_original(model_uri: str, workspace: Workspace) -> Original:
    """Every byte of it is verified. Its evaluation is made where another Frostline made the one it has."""
    registry = Registry(workspace.settings.mlflow)
    version = registry.resolve(model_uri)
    place = ModelPlace(workspace.store, registry, version.name)
    candidate = read_candidate(place, version)
    card = card_of(version, workspace)
    if card.quantization:
        raise ConfigError(f"{version.uri}: it is in {card.quantization} already; expected a model that is not.")
    if candidate.decision is None:
        raise ConfigError(
            f"{version.uri}: {workspace.store.uri} holds no decision of a gate about it; expected one, whose rule says "
            "what the smaller model must hold. Run its recipe up to register."
        )
    if found := doubts(candidate, place):
        raise ConfigError(
            f"{version.uri}: {'; '.join(found)}; expected a version that the gate let through as champion or "
            "challenger. Name another one."
        )
    dataset, before = (_input(version, step, workspace) for step in ("ingest", "evaluate"))
    assert dataset is not None and before is not None
    config, recipe = EvaluationConfig.model_validate(before.config), candidate.decision.name
    features, evaluation = evaluate_version(
        version, candidate.train, dataset, config, champion_outputs_name(recipe), workspace
    )
    return Original(
        version=version,
        card=card,
        train=candidate.train,
        dataset=dataset,
        base=_input(version, "base", workspace),
        features=features.manifest,
        evaluation=evaluation.manifest,
        rule=PromotionRule.model_validate(candidate.decision.config),
        recipe=recipe,
    )


def _input(version: ModelVersion, step: str, workspace: Workspace) -> Manifest | None:
    """An output that the version came from; None where it came from none."""
    tag = f"frostline.{step}_fingerprint"
    key = manifest_key(step, version.tags.get(tag, "none"))
    found = read_manifest(workspace.store, key)
    if found is None and (tag in version.tags or step != "base"):
        raise IntegrityError(
            f"{version.uri}: {workspace.store.uri} has no {key}; expected the output that the version came from. Name "
            "its store with --store, or run its recipe again."
        )
    return found


def _made(original: Original, workspace: Workspace) -> tuple[Manifest, Manifest]:
    """(`quantise` output, its evaluation on what the original was evaluated on)."""
    from training.evaluate import EvaluationInputs, evaluate, evaluate_request
    from training.quantising.step import quantise, quantise_request

    name, train, features = f"{original.recipe}{SUFFIX}", original.train, original.features
    request = quantise_request(name, train, features, original.card.language_model.digest)
    whole = language_model_folder(original.card, train, workspace)
    with _shown("quantise", workspace):
        made = ensured(request, lambda attempt: quantise(train, features, whole, attempt, workspace), workspace)
    quantised = made.manifest
    small = workspace.cache.folder_of(quantised, "language_model")
    config = EvaluationConfig.model_validate(original.evaluation.config)
    inputs = EvaluationInputs(
        original.version.name + SUFFIX, quantised, original.dataset, features, original.card.vision_tower, small
    )
    asked = evaluate_request(config, name, quantised, original.dataset, features)
    with ExitStack() as engines:
        found = ensured(asked, lambda attempt: evaluate(config, inputs, attempt, workspace), workspace, engines)
    return quantised, found.manifest


def _parts(original: Original, quantised: Manifest) -> "VersionParts":
    from training.quantising.step import tags_of_origin
    from training.version import VersionParts

    card = original.card
    return VersionParts(
        dataset=original.dataset,
        features=original.features,
        train=quantised,
        base=original.base,
        vision_tower=card.vision_tower.ref,
        language_model=card.language_model.ref,
        more_tags=tags_of_origin(original.version, original.train),
    )


def _measured(original: Original, package: Path, workspace: Workspace) -> "dict[str, Figures]":
    """The int8 package, loaded beside the original."""
    from training.predictor import fetch_package
    from training.quantising.speed import compared

    with _shown("measure", workspace):
        whole = fetch_package(Registry(workspace.settings.mlflow), original.version, workspace.cache.folder)
        return compared({"original": whole, "int8": package}, original.evaluation, original.features, workspace)


def _decided(
    original: Original, quantised: Manifest, evaluation: Manifest, max_loss: float, workspace: Workspace
) -> tuple[Promotion, Manifest | None]:
    """The decision, and the `register` output where the model may serve: one that is refused gets no version."""
    from training.champion_scores import scores_of
    from training.promotion import decide_quantised

    before, after = (scores_of(each, workspace.cache) for each in (original.evaluation, evaluation))
    by_itself = decide_quantised(None, before, after, original.rule, max_loss)
    if by_itself.alias is None:
        return by_itself, None
    registered = _registered(original, quantised, evaluation, max_loss, workspace)
    return Promotion.model_validate(registered.facts["promotion"]), registered


def _registered(
    original: Original, quantised: Manifest, evaluation: Manifest, max_loss: float, workspace: Workspace
) -> Manifest:
    from flows.registration import champion_evaluated
    from training.register import RegisterNames, Registration, register, register_request

    name = original.version.name + SUFFIX
    names = RegisterNames(f"{original.recipe}{SUFFIX}", name, without_password(workspace.settings.mlflow))
    more = {"max_loss": max_loss, "original_digest": original.train.identity["model_digest"]}
    request = register_request(original.rule, names, quantised, evaluation, workspace.store, more)
    parts = _parts(original, quantised)

    def produce(attempt: Attempt) -> Draft:
        champion = champion_evaluated(attempt.request, evaluation, original.dataset, workspace)
        asked = Registration(original.rule, name, parts, evaluation, champion, original.evaluation, max_loss)
        return register(asked, attempt, workspace)

    with _shown("register", workspace):
        return ensured(request, produce, workspace).manifest


@contextmanager
def _shown(label: str, workspace: Workspace) -> Iterator[None]:
    workspace.progress.start(label, 1, "model")
    yield
    workspace.progress.advance(label)
    workspace.progress.finish(label)
