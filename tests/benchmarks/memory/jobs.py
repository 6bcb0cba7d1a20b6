"""The trainings whose memory is measured: random language models of a stated size, texts of words, features of
noise."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from stored_parts import example_row, made_by, store_features, store_shard
from tiny_language_model import WORDS, save_tokenizer

from data_prep.schemas import examples_schema
from infra.digests import digest_json
from infra.settings import TrainResources
from infra.store import LocalStore
from training.config import TrainConfig
from training.job import TrainJob

NUM_PATCHES, VISION_WIDTH = 49, 768
TARGETS_PER_IMAGE, WORDS_PER_TARGET = 5, 12
REGIMES: dict[str, dict[str, Any]] = {"prefix": {"kind": "prefix"}, "full": {"kind": "full", "learning_rate": 1e-5}}


@dataclass(frozen=True)
class Size:
    """Of a language model, and of what is trained at once."""

    name: str
    num_layers: int
    width: int
    num_heads: int
    vocabulary: int
    micro_batch_tokens: int


SMALL = Size("4 layers, 256 wide", 4, 256, 4, 1024, 1024)
GPT2 = Size("GPT-2 (12 layers, 768 wide)", 12, 768, 12, 50257, 320)


@dataclass(frozen=True)
class Case:
    size: Size
    regime: str
    zero_stage: int
    num_ranks: int

    @property
    def name(self) -> str:
        return f"{self.size.name}, {self.regime}, ZeRO-{self.zero_stage}, {self.num_ranks} ranks"


CASES = [
    *(Case(size, regime, stage, 2) for size in (SMALL, GPT2) for regime in REGIMES for stage in range(4)),
    *(Case(size, regime, 2, 1) for size in (SMALL, GPT2) for regime in REGIMES),
]


def settings_of(case: Case) -> tuple[TrainConfig, TrainResources]:
    """Two global steps, each of one full micro batch on every rank, with a checkpoint after each."""
    images = case.size.micro_batch_tokens // (10 + TARGETS_PER_IMAGE * (WORDS_PER_TARGET + 2))
    config = TrainConfig.model_validate(
        {
            "mapper": {"kind": "mlp", "prefix_tokens": 10, "width": 512},
            "regime": REGIMES[case.regime],
            "objectives": {"caption": {}},
            "global_batch_images": images * case.num_ranks,
            "epochs": 1,
            "learning_rate": 1e-3,
            "checkpoint_every_steps": 1,
            "validation_images": 0,
        }
    )
    resources = TrainResources.model_validate(
        {
            "num_ranks": case.num_ranks,
            "threads_per_rank": 2 // case.num_ranks,
            "micro_batch_tokens": case.size.micro_batch_tokens,
            "zero_stage": case.zero_stage,
        }
    )
    return config, resources


def job_of(case: Case, folder: Path, language_model: Path) -> TrainJob:
    config, resources = settings_of(case)
    store = LocalStore(folder / "store")
    ids = [f"{number:064x}" for number in range(2 * config.global_batch_images)]
    shard = store_shard(store, folder, examples=pa.Table.from_pylist([_row(i) for i in ids], schema=examples_schema()))
    draw = np.random.default_rng(0)
    features_NPV = draw.standard_normal((len(ids), NUM_PATCHES, VISION_WIDTH), dtype=np.float32)
    parts = store_features(store, ids, features_NPV.astype(np.float16))
    facts = {"num_patches": NUM_PATCHES, "vision_width": VISION_WIDTH, "views": ["original"]}
    return TrainJob(
        config=config,
        resources=resources,
        fingerprint=digest_json(case.name),
        dataset=made_by("ingest", shard, {"dataset_digest": "d" * 64}),
        features=made_by("featurize", parts, {"encoder_key": "e" * 64}, facts),
        language_model_dir=language_model,
        store_uri=store.uri,
        cache_dir=folder / "cache",
    )


def _row(image_id: str) -> dict[str, Any]:
    draw = random.Random(image_id)
    targets = [" ".join(draw.choices(WORDS, k=WORDS_PER_TARGET)) for _ in range(TARGETS_PER_IMAGE)]
    return example_row(image_id, "caption", "", targets)


def language_model_of(size: Size, root: Path) -> Path:
    """A GPT-2 of this size with random weights, and a tokenizer of a few words."""
    folder = root / f"lm-{size.num_layers}-{size.width}-{size.vocabulary}"
    if not (folder / "config.json").exists():
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        save_tokenizer(folder)
        config = GPT2Config(
            vocab_size=size.vocabulary, n_positions=1024, n_embd=size.width, n_layer=size.num_layers,
            n_head=size.num_heads, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
