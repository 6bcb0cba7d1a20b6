"""A whole model in miniature: tower, language model, dataset, trained parameters, an evaluation. No engines."""

import io
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forge import Forge
from PIL import Image
from registered_model import Model
from registering import Places
from safetensors.torch import save_file
from stored_parts import image_table, store_features, store_shard
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTImageProcessorPil, ViTModel

from data_prep.pretrained import PretrainedRef
from data_prep.reencode import Reencode, reencode
from data_prep.schemas import predictions_schema
from data_prep.tower import FeatureConfig, Tower
from infra.digests import digest_bytes, digest_file
from infra.outputs import Draft, Manifest, OutputRequest, Part, upload_part
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.record import record_of
from infra.settings import Profile, Settings
from infra.store import LocalStore, Store
from infra.tracking import Registry
from infra.workspace import Workspace
from training import version
from training.asking import Asked, prompt_of
from training.base.tokenizer import train_tokenizer
from training.config import TrainConfig
from training.language_model import load_language_model
from training.objectives.answer_space import AnswerSpace
from training.package import write_package
from training.predictor import Predictor
from training.prefix_model import build_prefix_model, trainable_state
from training.report import REPORT_RECORD, REPORT_SCHEMA_VERSION, Report, report_json
from training.smoke_test import answers_to
from training.version import VersionParts, model_card

PROMPTS = ["", "", *["how many?", "what?"] * 10]
"""One for each image: captions, and as many questions as a gate needs images."""
WORDS = ["a red seven", "a blue three left of a green one", "question: how many? answer: two"]


def settings_with(var_dir: Path, mlflow_uri: str) -> Settings:
    return Settings(var_dir=var_dir, MLFLOW_TRACKING_URI=mlflow_uri)  # type: ignore[call-arg]  # named as its variable


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In every test of this folder."""


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all: creating it takes seconds. Tests keep apart by the model's name."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    with Forge("promote_program", "everything") as found:
        yield found


@pytest.fixture
def model(world: "World", tmp_path: Path, profile: Profile, mlflow_uri: str, request: pytest.FixtureRequest) -> Model:
    settings = settings_with(tmp_path, mlflow_uri)
    workspace = Workspace(settings, profile, world.store, PartCache(world.store, tmp_path / "cache"), Silent())
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Model(world, workspace, name)


@pytest.fixture
def places(world: "World", tmp_path: Path, profile: Profile, mlflow_uri: str, request: pytest.FixtureRequest) -> Places:
    settings = settings_with(tmp_path, mlflow_uri)
    workspace = Workspace(settings, profile, world.store, PartCache(world.store, tmp_path / "cache"), Silent())
    return Places(workspace, Registry(mlflow_uri), str(request.node.name))


@pytest.fixture(autouse=True)
def smoke_test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: a fresh one takes seconds to start. test_smoke_test.py has its own."""
    monkeypatch.setattr(version, "in_fresh_process", answers_to)


@dataclass(frozen=True)
class World:
    """Everything `register` reads, in one store."""

    store: Store
    cache: PartCache
    parts: VersionParts
    evaluation: Manifest
    images: list[bytes]
    """As they came in, which names them."""
    stored: list[bytes]
    """As they were ingested, which is what features are made of."""
    evaluation_config: dict[str, Any]

    def trained(self, seed: int) -> "World":
        """The same with other trained parameters."""
        return _with_model(self, seed)


@pytest.fixture(scope="session")
def frozen_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(tower, language model) as checkpoint folders."""
    root = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=32, patch_size=16)).save_pretrained(root / "tower")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "tower")
    tokenizer = train_tokenizer(WORDS, 300)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(**size, **ids, vocab_size=304, max_position_embeddings=96, initializer_range=0.6)
    LlamaForCausalLM(config).save_pretrained(root / "lm")
    tokenizer.save_pretrained(root / "lm")
    return root / "tower", root / "lm"


@pytest.fixture
def world(tmp_path: Path, store: Store, frozen_folders: tuple[Path, Path], request: pytest.FixtureRequest) -> World:
    """An indirect parameter holds options of `make_world`."""
    return make_world(tmp_path, store, frozen_folders, **getattr(request, "param", {}))


@pytest.fixture(scope="module")
def lasting_model(
    tmp_path_factory: pytest.TempPathFactory, frozen_folders: tuple[Path, Path], profile: Profile, mlflow_uri: str
) -> Model:
    """For tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("lasting")
    world = make_world(folder, LocalStore(folder / "store"), frozen_folders)
    settings = settings_with(folder, mlflow_uri)
    return Model(world, Workspace(settings, profile, world.store, world.cache, Silent()), folder.name)


def make_world(
    folder: Path,
    store: Store,
    frozen_folders: tuple[Path, Path],
    stored_as: Reencode | None = None,
    **evaluation_config: Any,
) -> World:
    cache = PartCache(store, folder / "cache")
    images = [_png(seed) for seed in range(len(PROMPTS))]
    stored = [(stored_as and reencode(image, stored_as)) or image for image in images]
    table = image_table(stored)
    image_ids = pa.array([digest_bytes(image) for image in images])
    table = table.set_column(table.schema.get_field_index("image_id"), "image_id", image_ids)
    shard = store_shard(store, folder, images=table)
    dataset = manifest("ingest", shard, {"dataset_digest": "d" * 64, "test_digest": "e" * 64})
    encoded = Tower(frozen_folders[0], FeatureConfig(), 1, "cpu").encode(stored)
    shape = {"num_patches": 4, "vision_width": 16, "views": ["original"]}
    feature_parts = store_features(store, image_ids.to_pylist(), encoded)
    features = manifest("featurize", feature_parts, {"encoder_key": "e" * 64}, FeatureConfig().model_dump(), shape)
    tower, lm = (PretrainedRef(folder=path) for path in frozen_folders)
    parts = VersionParts(dataset, features, dataset, None, tower, lm)
    return _with_model(
        World(store, cache, parts, dataset, images, stored, {"max_new_tokens": 6, **evaluation_config}), 0
    )


def _with_model(world: World, seed: int) -> World:
    """Parameters from a seed, and what they answer."""
    config = TrainConfig.model_validate(
        {
            "mapper": {"kind": "mlp", "prefix_tokens": 2, "width": 8},
            "global_batch_images": 4,
            "epochs": 1,
            "learning_rate": 0.1,
            "seed": seed,
        }
    )
    assert world.parts.language_model.folder is not None
    language = load_language_model(world.parts.language_model.folder, torch.float32)
    folder = world.cache.folder.parent / f"model-{seed}"
    folder.mkdir()
    weights = folder / "weights"
    save_file(trainable_state(build_prefix_model(config, language, (5, 16), AnswerSpace())), weights)
    part = upload_part(world.store, "train", weights, "trainables", 2, name="trainables.safetensors")
    facts = {"config": config.model_dump(mode="json"), "answer_space": {}}
    train = manifest("train", [part], {"model_digest": digest_file(weights)}, {"seed": seed}, facts)
    parts = replace(world.parts, train=train)
    empty = manifest("evaluate", [], {}, world.evaluation_config)
    write_package(folder / "package", model_card("tiny", parts, empty, world.cache), weights)
    predictor = Predictor.load(folder / "package", world.cache.folder)
    score = 0.8 + seed / 100  # of every question: the gain between two seeds is certain
    rows = []
    for number, (image, stored, prompt) in enumerate(zip(world.images, world.stored, PROMPTS, strict=True)):
        task = "vqa" if prompt else "caption"
        row = dict.fromkeys(predictions_schema().names) | {"example_id": str(number), "task": task, "prompt": prompt}
        asked = Asked(digest_bytes(image), prompt_of(config, task, prompt))
        (text,) = predictor._said(predictor.tower.encode([stored]), [asked])  # as the evaluation does
        row |= {"image_id": asked.image_id, "prediction": text, "control_prediction": "", "references": ["two"]}
        rows.append(row | {"scores": [("vqa_accuracy", score)] if prompt else [], "slices": [("task", task)]})
    predictions = _uploaded(
        world.store, "evaluate", pa.Table.from_pylist(rows, predictions_schema()), "predictions", folder
    )
    scores = {"metrics": {"vqa_accuracy": score}, "control": {"vqa_accuracy": 0.3}, "blind": {"vqa_accuracy": 0.2}}
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION, model_name="tiny", **scores, slices=[], num_examples={}, dataset={},
        curves={}, provenance={},
    )  # fmt: skip
    (folder / "report.json").write_text(report_json(report))
    record = upload_part(world.store, "evaluate", folder / "report.json", "report", 0, name=REPORT_RECORD)
    facts = {**scores, "intervals": {"vqa_accuracy": [score, score]}}
    identity = {"evaluation_digest": predictions.digest, "model_digest": train.identity["model_digest"]}
    inputs = {"model_digest": train.identity["model_digest"], "test_digest": "e" * 64}
    evaluation = manifest("evaluate", [record, predictions], identity, world.evaluation_config, facts, inputs)
    return replace(world, parts=parts, evaluation=evaluation)


def manifest(
    step: str,
    parts: list[Part],
    identity: dict[str, str],
    config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    inputs: dict[str, str] | None = None,
) -> Manifest:
    request = OutputRequest(step, 1, "tiny", config or {}, inputs or {"parts": str([part.digest for part in parts])})
    return Manifest(
        step=step,
        step_version=1,
        name="tiny",
        fingerprint=request.fingerprint,
        config=dict(request.config),
        inputs=dict(request.inputs),
        draft=Draft(parts=parts, identity=identity, facts=facts or {}),
        record=record_of(time.time(), {}),
    )


def _uploaded(store: Store, step: str, table: pa.Table, kind: str, folder: Path) -> Part:
    pq.write_table(table, folder / f"{kind}.parquet")
    return upload_part(store, step, folder / f"{kind}.parquet", kind, table.num_rows, name=f"{kind}.parquet")


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (40, 40), random.Random(seed).randbytes(40 * 40 * 3)).save(buffer, "PNG")
    return buffer.getvalue()
