"""Everything an evaluation reads, in one store: pictures, captions and questions, features, a model."""

import json
import random
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from no_tower import NO_TOWER
from plan import Case
from stored_parts import example_row, image_table, made_by, noise, store_features, store_shard
from tiny_language_model import WORDS
from worlds import language_model_of, trained

from data_prep.schemas import examples_schema
from infra.digests import digest_bytes
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Settings, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace
from training.evaluate import EvaluationInputs

WORLD = "second.json"
CAPTIONS_PER_IMAGE, ANSWERS_PER_QUESTION = 5, 10
QUESTIONS = [f"which {kind} is it {number}" for kind in ("colour", "digit") for number in range(20)]


@dataclass(frozen=True)
class SecondWorld:
    inputs: EvaluationInputs
    workspace: Workspace
    max_new_tokens: int


@cache
def second_world(folder: Path, num_images: int) -> SecondWorld:
    """Made anew in this folder, which holds the case."""
    case = Case(**json.loads((folder / "case.json").read_text()))
    shutil.rmtree(root := folder / f"images-{num_images}", ignore_errors=True)
    root.mkdir()
    store = LocalStore(root / "store")
    pictures = [noise(number) for number in range(num_images)]
    image_ids = [digest_bytes(picture) for picture in pictures]
    draw = random.Random(0)
    examples = pa.Table.from_pylist([row for one in image_ids for row in _rows(one, draw)], schema=examples_schema())
    shard = store_shard(store, root, images=image_table(pictures), examples=examples)
    dataset = made_by("ingest", shard, {"test_digest": "a" * 64}, {"statistics": {"images": num_images}})
    values = np.random.default_rng(0).normal(size=(num_images, case.num_patches, case.vision_width))
    shape = {"num_patches": case.num_patches, "vision_width": case.vision_width, "views": ["original"]}
    parts = store_features(store, image_ids, values.astype(np.float16))
    features: Manifest = made_by("featurize", parts, {"encoder_key": "e" * 64}, shape)
    language_model = language_model_of(case, root)
    train = trained(case, language_model, store, root)
    cache = PartCache(store, root / "cache")
    workspace = Workspace(Settings(var_dir=root), load_profile("laptop"), store, cache, Silent())
    inputs = EvaluationInputs("bench", train, dataset, features, NO_TOWER, language_model)
    return SecondWorld(inputs, workspace, case.max_new_tokens)


def _rows(image_id: str, draw: random.Random) -> list[dict[str, object]]:
    """A caption row and a question row of one image."""
    captions = [" ".join(draw.choices(WORDS, k=draw.randint(6, 14))) for _ in range(CAPTIONS_PER_IMAGE)]
    answers = draw.choices(WORDS, k=ANSWERS_PER_QUESTION)
    return [
        example_row(image_id, "caption", "", captions, split="test"),
        example_row(image_id, "vqa", draw.choice(QUESTIONS), answers, split="test"),
    ]
