"""A trained model in miniature: a frozen GPT-2, a mapper that listens to its image, features, pictures, examples."""

import io
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from no_tower import NO_TOWER
from stored_parts import example_row, image_table, made_by, store_features, store_shard
from tiny_language_model import save_language_model

from data_prep.dataset import Example, read_examples
from data_prep.pins import Pin
from data_prep.schemas import examples_schema
from infra.digests import canonical_json, digest_bytes
from infra.outputs import Manifest, upload_part
from infra.part_cache import PartCache
from infra.store import Store
from training.config import TrainConfig

NUM_TEST_IMAGES, NUM_TRAIN_IMAGES = 10, 3
NUM_PATCHES, VISION_WIDTH = 4, 8


@pytest.fixture(scope="session")
def language_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    save_language_model(folder)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on tensors this small spend their time waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone. One per session: DeepSpeed keeps hold of the first."""
    from torch import distributed

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@dataclass(frozen=True)
class TrainedWorld:
    """Everything an evaluation reads, in one store."""

    dataset: Manifest
    features: Manifest
    train: Manifest
    vision_tower: Pin
    config: TrainConfig
    language_model_folder: Path
    test_examples: list[Example]


@pytest.fixture
def trained_world(tmp_path: Path, store: Store, language_model_dir: Path) -> Iterator[TrainedWorld]:
    """Ten test images with a caption, a question and a task that was not trained; and three train images."""
    import torch

    num_threads = torch.get_num_threads()
    folder = tmp_path / "made"
    folder.mkdir()
    pictures = [_picture(number) for number in range(NUM_TEST_IMAGES + NUM_TRAIN_IMAGES)]
    image_ids = [digest_bytes(picture) for picture in pictures]
    rows = [row for number, image_id in enumerate(image_ids) for row in _rows(number, image_id)]
    examples = pa.Table.from_pylist(rows, examples_schema())
    dataset = made_by(
        "ingest",
        store_shard(store, folder, images=image_table(pictures), examples=examples),
        {"dataset_digest": "d" * 64, "test_digest": "a" * 64},
        {"statistics": {"images": len(image_ids)}},
    )
    values = np.random.default_rng(0).normal(size=(len(image_ids), NUM_PATCHES, VISION_WIDTH)).astype(np.float16)
    shape = {"num_patches": NUM_PATCHES, "vision_width": VISION_WIDTH, "views": ["original"]}
    features = made_by("featurize", store_features(store, image_ids, values), {"encoder_key": "e" * 64}, shape)
    config = TrainConfig.model_validate(
        {
            "mapper": {"kind": "mlp", "prefix_tokens": 3, "width": 16},
            "global_batch_images": 4,
            "epochs": 1,
            "learning_rate": 0.1,
        }
    )
    train = _trained(store, config, language_model_dir, folder)
    cache = PartCache(store, tmp_path / "cache")
    test_examples = read_examples(dataset, cache, ["test"])
    yield TrainedWorld(dataset, features, train, NO_TOWER, config, language_model_dir, test_examples)
    torch.set_num_threads(num_threads)  # an answerer in this process sets its own


def _trained(store: Store, config: TrainConfig, language_model_dir: Path, folder: Path) -> Manifest:
    """A mapper from its seed, made loud: its prefix decides the text."""
    import torch
    from safetensors.torch import save_file

    from training.language_model import load_language_model
    from training.objectives.answer_space import AnswerSpace
    from training.prefix_model import build_prefix_model, trainable_state

    language_model = load_language_model(language_model_dir, torch.float32)
    state = trainable_state(build_prefix_model(config, language_model, (NUM_PATCHES, VISION_WIDTH), AnswerSpace()))
    save_file({name: value * 8 for name, value in state.items()}, folder / "trainables")
    trainables = upload_part(store, "train", folder / "trainables", "trainables", len(state))
    (folder / "history").write_bytes(canonical_json({"loss": [[1, 2.0], [2, 1.0]]}))
    history = upload_part(store, "train", folder / "history", "history", 2)
    facts = {"config": config.model_dump(mode="json"), "answer_space": {}, "validation_curve": [[2, 1.5]]}
    return made_by("train", [trainables, history], {"model_digest": "b" * 64}, facts)


def _rows(number: int, image_id: str) -> list[dict[str, Any]]:
    test = number < NUM_TEST_IMAGES
    asked = [("caption", "", ["a red seven", "seven a red"]), ("vqa", "which digit", ["seven"]), ("count", "?", ["1"])]
    more = {
        "source": "tiny",
        "split": "test" if test else "train",
        "attributes": [("parity", "odd" if number % 2 else "even")],
    }
    return [
        example_row(image_id, task, prompt, targets, example_id=digest_bytes(f"{number} {task}".encode()), **more)
        for task, prompt, targets in asked
    ]


def _picture(number: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("RGB", (16, 16), random.Random(number).randbytes(16 * 16 * 3)).save(buffer, "PNG")
    return buffer.getvalue()
