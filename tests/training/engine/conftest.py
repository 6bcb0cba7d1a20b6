"""A tiny training: a frozen GPT-2 of two layers, features that name the answer, a dataset of a few images."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ranks import Ranks
from stored_parts import example_row, made_by, store_features, store_shard
from tiny_language_model import WORDS, save_tokenizer

from data_prep.dataset import Example
from data_prep.schemas import examples_schema
from infra.settings import TrainResources
from infra.store import LocalStore
from training.config import TrainConfig
from training.job import TrainJob

NUM_PATCHES, VISION_WIDTH = 4, 8


def tiny_rows(num_images: int) -> list[dict[str, Any]]:
    """Images with one caption row of one or two targets and up to three questions."""
    rows = []
    for number in range(num_images):
        draw = random.Random(number)
        split = "val" if number % 8 == 7 else "train"
        colour, digit = WORDS[number % 3], WORDS[3 + number // 3 % 3]
        asked = [("caption", "", [f"a {colour} {digit}", f"{digit} a {colour} a"][: draw.randint(1, 2)])]
        asked += [("vqa", "which colour", [colour]), ("vqa", "which digit", [digit])][: draw.randint(0, 2)]
        for place, (task, prompt, targets) in enumerate(asked):
            example_id = f"{number:04d}{place:060d}"
            named = {"example_id": example_id, "split": split, "source": "tiny"}
            rows.append(example_row(f"{number:064x}", task, prompt, targets, **named))
    return rows


def tiny_examples(num_images: int) -> list[Example]:
    names = ("example_id", "image_id", "task", "prompt", "targets", "split", "source", "weight")
    rows = [{name: row[name] for name in names} for row in tiny_rows(num_images)]
    return [Example(**{**row, "targets": tuple(row["targets"])}) for row in rows]


def tiny_features(num_images: int) -> np.ndarray:
    """float16[N, P, V] that tell colour and digit apart."""
    draw = np.random.default_rng(0)
    colours, digits = draw.normal(size=(3, VISION_WIDTH)), draw.normal(size=(3, VISION_WIDTH))
    features = draw.normal(size=(num_images, NUM_PATCHES, VISION_WIDTH)) * 0.1
    for number in range(num_images):
        features[number, 0] += colours[number % 3]
        features[number, 1] += digits[number // 3 % 3]
    return features.astype(np.float16)


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory, language_model_dir: Path) -> Callable[..., TrainJob]:
    """make_job(store_dir, config={...}, resources={...}, num_images=...) -> a job on real parts in a local store."""

    def make(
        folder: Path,
        config: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        num_images: int = 24,
        features: np.ndarray | None = None,
        rows: list[dict[str, Any]] | None = None,
    ) -> TrainJob:
        store = LocalStore(folder / "store")
        folder.mkdir(parents=True, exist_ok=True)
        rows = rows or tiny_rows(num_images)
        values = tiny_features(num_images) if features is None else features
        image_ids = [f"{number:064x}" for number in range(num_images)]
        shard = store_shard(store, folder, examples=pa.Table.from_pylist(rows, schema=examples_schema()))
        features_parts = store_features(store, image_ids, values)
        shape = {"num_patches": NUM_PATCHES, "vision_width": VISION_WIDTH, "views": ["original"]}
        return TrainJob(
            config=TrainConfig.model_validate(
                {
                    "mapper": {"kind": "transformer", "prefix_tokens": 3, "width": 16, "num_layers": 1, "num_heads": 2},
                    "global_batch_images": 8,
                    "epochs": 4,
                    "learning_rate": 5e-3,
                    "checkpoint_every_steps": 4,
                    "validate_every_steps": 4,
                    **(config or {}),
                }
            ),
            resources=TrainResources.model_validate(
                {
                    "num_ranks": 1,
                    "threads_per_rank": 1,
                    "micro_batch_tokens": 64,
                    "rank_timeout_seconds": 60,
                    **(resources or {}),
                }
            ),
            fingerprint="f" * 64,
            dataset=made_by("ingest", shard, {"dataset_digest": "d" * 64}, {}),
            features=made_by("featurize", features_parts, {"encoder_key": "e" * 64}, shape),
            language_model_dir=language_model_dir,
            store_uri=store.uri,
            cache_dir=folder / "cache",
        )

    return make


@pytest.fixture(scope="session")
def make_examples() -> Callable[[int], list[Example]]:
    return tiny_examples


@pytest.fixture(scope="session")
def make_rows() -> Callable[[int], list[dict[str, Any]]]:
    return tiny_rows


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[..., int]:
    return save_tokenizer


@pytest.fixture(scope="session")
def ranks(make_job: Callable[..., TrainJob], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two, each of which starts in milliseconds, with what LoRA imports too."""
    folder = tmp_path_factory.mktemp("ranks")
    with Ranks(2, make_job(folder, {"regime": {"kind": "lora", "learning_rate": 1e-2}}), folder) as made:
        yield made
