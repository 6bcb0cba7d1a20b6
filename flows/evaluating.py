"""A registered version evaluated on rows that it did not come from: through its own tower and language model."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from rich.console import Console

from data_prep.ingest_config import IngestConfig, SplitFractions
from data_prep.sources import PATH_FIELDS
from flows.opened import open_workspace
from flows.recipe import absolute_paths
from flows.summary import RunSummary, StepResult, report_path, step_result, summarise
from flows.terminal import Bars, metrics_table, steps_table
from infra import ray
from infra.errors import ConfigError
from infra.logs import engines_to, new_log_file
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, ensure_output
from infra.settings import Settings
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from infra.yaml_config import parse, read_yaml, set_values
from training.evaluation_config import EvaluationConfig

if TYPE_CHECKING:
    from training.package import ModelCard


def evaluate_command(
    model_uri: str, sources: Sequence[str], assignments: Sequence[str], profile: str, store: str | None, as_json: bool
) -> None:
    """Every row without a split of its own is a test row."""
    ingest = ingest_config(sources)
    config = parse(EvaluationConfig, set_values({}, assignments), where="--set")
    with engines_to(new_log_file(Settings().logs)) as (output, error):
        bars = Bars(Console(file=error))
        workspace = open_workspace(profile, bars, store)
        with bars.shown():
            summary, evaluation = evaluate_on(model_uri, ingest, config, workspace)
    if as_json:
        print(summary.model_dump_json(indent=2), file=output)
        return
    console = Console(file=output)
    console.print(steps_table(summary), "", metrics_table(summary))
    console.print(f"\nreport: {report_path(evaluation, workspace)}", soft_wrap=True, highlight=False, markup=False)


def ingest_config(sources: Sequence[str]) -> IngestConfig:
    """Of sources as typed: each a YAML mapping, or the path of a YAML file that holds one."""
    fractions = SplitFractions(val=0, test=1).model_dump()
    values = {"sources": [_source(text) for text in sources], "split_fractions": fractions}
    return parse(IngestConfig, values, where="--source")


def _source(text: str) -> dict[str, Any]:
    path = Path(text)
    try:
        found = read_yaml(path) if path.suffix in (".yaml", ".yml") else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--source {text!r}: not YAML; expected a mapping as in a recipe. Quote it.") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"--source {text!r}: found {type(found).__name__}; expected a mapping as in a recipe, such as "
            "'{kind: jsonl, path: rows.jsonl, images: photos}', or the path of a .yaml file with one."
        )
    folder = path.absolute().parent if path.suffix in (".yaml", ".yml") else Path.cwd()
    made_absolute: dict[str, Any] = absolute_paths(found, PATH_FIELDS, folder)
    return made_absolute


def evaluate_on(
    model_uri: str, ingest: IngestConfig, config: EvaluationConfig, workspace: Workspace
) -> tuple[RunSummary, Manifest]:
    """Ingest, featurize and evaluate; what is there already is reused."""
    from data_prep.ingest import ingest as ingest_rows
    from data_prep.ingest import ingest_request
    from training.candidate import ModelPlace, read_candidate

    registry = Registry(workspace.settings.mlflow)
    version = registry.resolve(model_uri)
    candidate = read_candidate(ModelPlace(workspace.store, registry, version.name), version)
    name = f"{version.name}.evaluate"  # not a recipe's own log, which `plan` compares with
    request = ingest_request(ingest, name, workspace.store)
    dataset = ensured(request, lambda attempt: ingest_rows(ingest, attempt, workspace), workspace)
    steps = [dataset, *evaluate_version(version, candidate.train, dataset.manifest, config, name, workspace)]
    outputs = {step.manifest.step: step.manifest for step in steps}
    return summarise([step.result for step in steps], outputs, workspace), outputs["evaluate"]


class Made(NamedTuple):
    """An output, and what the table says of it."""

    manifest: Manifest
    result: StepResult


def evaluate_version(
    version: ModelVersion, train: Manifest, dataset: Manifest, config: EvaluationConfig, name: str, workspace: Workspace
) -> list[Made]:
    """`featurize` and `evaluate`, through the version's own tower and language model; `train` is its training. Ray
    starts when one of them has to be made."""
    from training.evaluate import EvaluationInputs, evaluate, evaluate_request

    card = card_of(version, workspace)
    lm_folder = language_model_folder(card, train, workspace)
    with ExitStack() as engines:
        features = featurize_for(card, dataset, name, workspace, engines)
        inputs = EvaluationInputs(version.name, train, dataset, features.manifest, card.vision_tower, lm_folder)
        asked = evaluate_request(config, name, train, dataset, features.manifest)
        made = ensured(asked, lambda attempt: evaluate(config, inputs, attempt, workspace), workspace, engines)
        return [features, made]


def language_model_folder(card: "ModelCard", train: Manifest, workspace: Workspace) -> Path:
    """On this machine, verified: the pinned one, or an int8 model's own, which is a part of `train`."""
    from data_prep.pins import verified_folder
    from training.package import LANGUAGE_MODEL

    if card.quantization:
        return workspace.cache.folder_of(train, LANGUAGE_MODEL)
    return verified_folder(card.language_model, workspace.cache.folder, workspace.store)


def card_of(version: ModelVersion, workspace: Workspace) -> "ModelCard":
    """What the version's package says of itself: its tower and language model among it. Every byte is verified."""
    from training.package import read_package
    from training.predictor import fetch_package

    registry = Registry(workspace.settings.mlflow)
    return read_package(fetch_package(registry, version, workspace.cache.folder)).card


def featurize_for(card: "ModelCard", dataset: Manifest, name: str, workspace: Workspace, engines: ExitStack) -> Made:
    """Features of the dataset's images through the tower of a registered version."""
    from data_prep.featurize import featurize, featurize_request

    request = featurize_request(card.features, name, dataset, card.vision_tower.digest)

    def produce(attempt: Attempt) -> Draft:
        return featurize(card.features, dataset, card.vision_tower, attempt, workspace)

    return ensured(request, produce, workspace, engines)


def ensured(
    request: OutputRequest, produce: Callable[[Attempt], Draft], workspace: Workspace, engines: ExitStack | None = None
) -> Made:
    """The output, reused or made; where `engines` is given, with Ray."""
    started = time.monotonic()
    if engines is not None and not workspace.store.exists(request.manifest_key):
        engines.enter_context(ray.connected(workspace.profile.ray, workspace.settings.logs))
    resources = workspace.profile.model_dump(mode="json")
    manifest, reused = ensure_output(workspace.store, request, produce, resources)
    return Made(manifest, step_result(manifest, reused, started, workspace))
