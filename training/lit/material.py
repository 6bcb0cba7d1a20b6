"""What a locked-image tuning makes of a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from data_prep.features import FeatureStore
from infra.errors import DataError
from training.config import TrainConfig
from training.data import Ranks
from training.job import TrainJob
from training.layers import apply_resources
from training.lit.data import LitBatcher, lit_images
from training.lit.model import LitModel, build_lit_model
from training.lit.text_tower import TextTower, load_text_tower
from training.material import Examples, Material, given_once


def lit_material(job: TrainJob, features: FeatureStore, examples: Examples, ranks: Ranks) -> Material:
    """Raises DataError where there is nothing to train on, or a text has no tokens."""
    tower = text_tower_of(job.config, job.language_model_dir)
    train = lit_images(examples.train, tower, job.config)
    if not train:
        raise DataError(
            "the train split has no caption and no label; expected at least one, since the regime lit compares images "
            "with texts. Check the sources and their splits."
        )

    fresh = given_once(tower, lambda: text_tower_of(job.config, job.language_model_dir))

    def build() -> LitModel:
        model = build_lit_model(job.config, fresh(), features.vision_width)
        apply_resources(model.lm, job.resources)
        return model

    return Material(
        train=train,
        val=lit_images(examples.val, tower, job.config),
        batcher=LitBatcher(features, tower.pad_id, job.config, replace(ranks, micro_batch_tokens=None)),
        build_model=build,
    )


def text_tower_of(config: TrainConfig, folder: Path) -> TextTower:
    return load_text_tower(folder, text_tower_dtype(config))


def text_tower_dtype(config: TrainConfig) -> torch.dtype:
    """fp32 where it is trained, since trained parameters are fp32 in every precision."""
    locked = getattr(config.regime, "learning_rate", None) is None
    return torch.bfloat16 if locked and config.precision == "bf16" else torch.float32
