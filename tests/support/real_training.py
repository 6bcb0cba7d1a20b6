"""Real data through the product's own steps, in this process: ingest, featurize, train on one rank, load."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from no_tower import NO_TOWER
from watching import Watching

from data_prep import featurize as featurize_step
from data_prep.dataset import Example, read_examples
from data_prep.features import FeatureStore
from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig
from infra.outputs import Attempt, Draft, Manifest, ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Settings, TrainResources, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace
from training.answering import Answerer
from training.asking import Reply, blind_images, questions_of, swapped, units_of
from training.config import TrainConfig
from training.job import TrainJob
from training.language_model import LanguageModel
from training.loop import run_rank
from training.objectives.answer_space import AnswerSpace
from training.prefix_model import PrefixModel
from training.scoring import Scorer
from training.train import train, train_request
from training.trained import load_trained

EASY_VQA = {
    "mapper": {"kind": "mlp", "prefix_tokens": 4, "width": 128},
    "objectives": {"vqa": {"prompt": "{prompt}"}},
    "regime": {"kind": "full", "learning_rate": 2e-3},
    "global_batch_images": 24,
    "epochs": 3,
    "learning_rate": 2e-3,
    "validation_images": 0,
    "checkpoint_every_steps": 10_000,
}
"""How the pictures of one coloured shape are learned, in the best regime; tests/benchmarks/regimes.py compares them."""
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True)
class World:
    """One real dataset with its features, and the language model to be."""

    name: str
    dataset: Manifest
    features: Manifest
    language_model_dir: Path
    workspace: Workspace

    @property
    def stored(self) -> FeatureStore:
        return FeatureStore(self.features, self.workspace.cache)

    def examples(self, *splits: str) -> list[Example]:
        return read_examples(self.dataset, self.workspace.cache, splits)


@dataclass(frozen=True)
class Trained:
    """A model as evaluation has it, and what its training said of itself."""

    model: PrefixModel
    language: LanguageModel
    output: Manifest


def workspace_in(folder: Path) -> Workspace:
    store = LocalStore(folder / "store")
    profile = load_profile("laptop", ["ingest.num_processes=1"])
    return Workspace(Settings(var_dir=folder), profile, store, PartCache(store, folder / "cache"), Silent())


def world_of(
    name: str, weights: Path, size_px: int, workspace: Workspace, ingested: Mapping[str, Any], **featurized: Any
) -> World:
    """Ingested, and encoded by MobileNetV2 in this process. What the store has is not made again."""
    tower = tower_for(weights / "mobilenet_v2_hf_fp16", workspace.cache.folder / f"tower-{size_px}", size_px)
    language_model = stories_for(weights / "stories260K_hf", workspace.cache.folder / "stories")
    return world_with(name, (tower, language_model), workspace, ingested, **featurized)


def world_with(
    name: str, frozen: tuple[Path, Path], workspace: Workspace, ingested: Mapping[str, Any], **featurized: Any
) -> World:
    """The same, encoded by the tower in the first of these folders; the second holds the language model."""
    store, config = workspace.store, IngestConfig.model_validate(ingested)
    request = ingest_request(config, name, store)
    dataset, _ = ensure_output(store, request, lambda attempt: ingest(config, attempt, workspace), {})
    features_config = FeatureConfig.model_validate(featurized)
    pinned = pin(PretrainedRef(folder=frozen[0]), None, workspace.cache)
    request = featurize_step.featurize_request(features_config, name, dataset, pinned.digest)

    def produce(attempt: Attempt) -> Draft:
        return featurize_step.featurize(features_config, dataset, pinned, attempt, workspace)

    with _without_actors():
        features, _ = ensure_output(store, request, produce, {})
    return World(name, dataset, features, frozen[1], workspace)


def trained(world: World, config: Mapping[str, Any], **resources: Any) -> Trained:
    """As evaluation loads it."""
    output = train_output(world, config, **resources)
    model, language = load_trained(output, world.stored, world.language_model_dir, world.workspace.cache, "cpu")
    return Trained(model, language, output)


def train_output(world: World, config: Mapping[str, Any], **resources: Any) -> Manifest:
    """What the step commits, trained through the loop on one rank, which needs a process group."""
    checked, workspace = TrainConfig.model_validate(config), world.workspace
    inputs = (world.dataset, world.features, world.language_model_dir)
    request = train_request(checked, world.name, *inputs[:2], world.language_model_dir.name)
    told = {"num_ranks": 1, "threads_per_rank": 1, "micro_batch_tokens": 8192, "zero_stage": 0, **resources}
    job = TrainJob(
        config=checked,
        resources=TrainResources.model_validate(told),
        fingerprint=request.fingerprint,
        dataset=world.dataset,
        features=world.features,
        language_model_dir=world.language_model_dir,
        store_uri=workspace.store.uri,
        cache_dir=workspace.cache.folder,
    )

    def produce(attempt: Attempt) -> Draft:
        run_rank(job, Watching())
        return train(checked, *inputs, attempt, workspace)

    return ensure_output(workspace.store, request, produce, {})[0]


def answered(
    world: World, found: Trained, examples: Sequence[Example], max_new_tokens: int
) -> tuple[dict[str, Reply], dict[str, Reply]]:
    """By example, about its own image and about another example's: by what evaluation's actors run."""
    answerer = Answerer(
        world.workspace.store.uri,
        str(world.workspace.cache.folder),
        {
            name: output.model_dump(mode="json")
            for name, output in (("train", found.output), ("features", world.features), ("dataset", world.dataset))
        },
        str(world.language_model_dir),
        NO_TOWER.model_dump(mode="json"),
        {
            "threads": 1,
            "batch_size": 128,
            "blind_images": blind_images({example.image_id for example in examples}),
            "shots": {},
            "generation": {"max_new_tokens": max_new_tokens},
        },
    )
    control = swapped([example.image_id for example in examples], seed=0)
    questions = questions_of(examples, found.model.config, control)
    asked = [one for question in questions for one in (question.own, question.control)]
    (unit,) = units_of(asked, len(asked)).values()
    replies = dict(zip(unit, answerer.run(unit), strict=True))
    own = {question.example_id: replies[question.own] for question in questions}
    return own, {question.example_id: replies[question.control] for question in questions}


def text_scores(examples: Sequence[Example], replies: Mapping[str, Reply]) -> dict[str, float]:
    """Metrics of captions and answers."""
    return Scorer(examples, AnswerSpace()).score(replies)[0]


def tower_for(source: Path, folder: Path, size_px: int) -> Path:
    """The same weights for pictures of another size: an image of 224 px takes a core 34 ms, one of 128 px 11 ms."""
    if not folder.exists():
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        path = folder / "preprocessor_config.json"
        processor = json.loads(path.read_text())
        processor |= {"size": {"shortest_edge": size_px}, "crop_size": {"height": size_px, "width": size_px}}
        path.write_text(json.dumps(processor))
    return folder


def stories_for(source: Path, folder: Path) -> Path:
    """The same weights with `<s>` before every text and at its end, as they were trained: their tokenizer says `</s>`,
    which no story had. Its likelihood in the frozen model is at most exp(-5.36), so that no text would ever end."""
    if not folder.exists():
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        config, tokenizer = (json.loads((folder / name).read_text()) for name in TOKENIZER_FILES)
        processor = tokenizer["post_processor"]
        processor["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
        processor["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        for name, told in zip(TOKENIZER_FILES, ({**config, "eos_token": "<s>"}, tokenizer), strict=True):
            (folder / name).write_text(json.dumps(told))
    return folder


@contextmanager
def _without_actors() -> Iterator[None]:
    def here(worker: type, arguments: Mapping[str, Any], units: Mapping[str, Any], _: object, keep: Any) -> None:
        encoder = worker(**arguments)
        for name, unit in units.items():
            keep(name, encoder.run(unit))

    before = featurize_step.run_units
    featurize_step.run_units = here  # type: ignore[assignment]
    try:
        yield
    finally:
        featurize_step.run_units = before
