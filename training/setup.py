"""From a job to everything a rank trains with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data_prep.dataset import read_examples
from data_prep.features import FeatureStore
from infra.errors import DataError
from infra.part_cache import PartCache
from infra.store import open_store
from training.checkpoints import CheckpointFolder
from training.data import GlobalBatch, Ranks, TrainingOrder, global_batch, tokenise
from training.job import TrainJob, checkpoint_prefix
from training.language_model import frozen_digest, load_language_model
from training.packing import PackedImage
from training.prefix_model import PrefixModel, build_prefix_model


@dataclass(frozen=True)
class Prepared:
    """A rank's model and data, before any step."""

    model: PrefixModel
    order: TrainingOrder
    validation: tuple[PackedImage, ...]
    features: FeatureStore
    checkpoints: CheckpointFolder
    ranks: Ranks
    facts: dict[str, object]
    """Numbers of parameters and examples, and the digest of the frozen parameters."""

    def train_batch(self, step: int) -> GlobalBatch:
        """This rank's part of global step `step`, counted from 0."""
        images = self.order.batch(step)
        return global_batch(images, self.ranks, self.features, self.order.config.global_batch_images)

    def validation_batches(self) -> list[list[PackedImage]]:
        size = self.order.config.global_batch_images
        return [list(self.validation[start : start + size]) for start in range(0, len(self.validation), size)]


def prepare(job: TrainJob, rank: int, num_ranks: int) -> Prepared:
    """Read, tokenise and check everything, so that what is wrong shows before the first step."""
    config = job.config
    store = open_store(job.store_uri)
    cache = PartCache(store, job.cache_dir)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    language_model = load_language_model(job.language_model_dir, dtype)
    features = FeatureStore(job.features, cache)
    examples = read_examples(job.dataset, cache, ["train", "val"])
    train = tokenise([example for example in examples if example.split == "train"], language_model, config)
    val = tokenise([example for example in examples if example.split == "val"], language_model, config)
    val = val[: config.validation_images]
    _check_features((*train, *val), features)
    model = build_prefix_model(config, language_model, features.num_patches, features.vision_width)
    trained_examples = {branch.example_id for image in train for branch in image.branches}
    facts: dict[str, object] = {
        "num_trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "num_frozen_parameters": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "num_train_images": len(train),
        "num_train_examples": len(trained_examples),
        "num_train_targets": sum(len(image.branches) for image in train),
        "frozen_digest": frozen_digest(model) if rank == 0 else "",
    }
    return Prepared(
        model,
        TrainingOrder(train, config, job.dataset.identity["dataset_digest"]),
        val,
        features,
        CheckpointFolder(store, checkpoint_prefix(job.fingerprint), config.keep_checkpoints),
        Ranks(rank, num_ranks, job.resources.micro_batch_images),
        facts,
    )


def _check_features(images: tuple[PackedImage, ...], features: FeatureStore) -> None:
    missing = features.missing([image.image_id for image in images])
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images have no features, the first is {missing[0][:12]}…; expected one "
            "row per image. Run `frostline run RECIPE --force featurize`."
        )
