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
from training.data import Batcher, Ranks, TrainingOrder
from training.job import TrainJob, checkpoint_prefix
from training.language_model import LanguageModel, load_language_model
from training.objectives.answer_space import AnswerSpace, answer_space_of
from training.packing import PackedImage
from training.prefix_model import PrefixModel, build_prefix_model, layout_of
from training.tokenising import check_objectives, tokenise


@dataclass(frozen=True)
class Prepared:
    """A rank's data, before any step."""

    job: TrainJob
    order: TrainingOrder
    validation: tuple[PackedImage, ...]
    batcher: Batcher
    checkpoints: CheckpointFolder
    space: AnswerSpace
    messages: tuple[str, ...]
    """What an operator has to know of how this training differs from what the configuration could expect."""
    facts: dict[str, object]
    """Numbers of images, examples and targets."""

    def validation_batches(self) -> list[list[PackedImage]]:
        size = self.job.config.global_batch_images
        return [list(self.validation[start : start + size]) for start in range(0, len(self.validation), size)]

    def build_model(self) -> PrefixModel:
        """Fresh, with everything of the regime marked as trained."""
        return build_prefix_model(
            self.job.config, language_model_of(self.job), _shape(self.batcher.features), self.space
        )


def language_model_of(job: TrainJob) -> LanguageModel:
    dtype = torch.bfloat16 if job.config.precision == "bf16" else torch.float32
    return load_language_model(job.language_model_dir, dtype)


def prepare(job: TrainJob, rank: int, num_ranks: int) -> Prepared:
    """Read, tokenise and check everything, so that what is wrong shows before the first step."""
    config = job.config
    store = open_store(job.store_uri)
    cache = PartCache(store, job.cache_dir)
    features = FeatureStore(job.features, cache)
    examples = read_examples(job.dataset, cache, ["train", "val"])
    in_train = [example for example in examples if example.split == "train"]
    language = language_model_of(job)
    layout = layout_of(config, language)
    space = answer_space_of(in_train, config.objectives)
    train = tokenise(in_train, language, config, layout, space)
    check_objectives(train, config)
    val = tokenise([example for example in examples if example.split == "val"], language, config, layout, space)
    val = val[: config.validation_images]
    _check_features((*train, *val), features)
    # Negatives are the whole global batch, so a rank's share is not cut.
    max_tokens = None if config.objectives.contrast else job.resources.micro_batch_tokens
    messages = () if layout.shares else (NOT_SHARED.format(language.folder),)
    facts: dict[str, object] = {
        "num_train_images": len(train),
        "num_train_examples": len({branch.example_id for image in train for branch in image.branches}),
        "num_train_targets": sum(len(image.branches) for image in train),
    }
    return Prepared(
        job,
        TrainingOrder(train, config, job.dataset.identity["dataset_digest"]),
        val,
        Batcher(features, layout, config, Ranks(rank, num_ranks, max_tokens)),
        CheckpointFolder(store, checkpoint_prefix(job.fingerprint), config.keep_checkpoints),
        space,
        messages,
        facts,
    )


NOT_SHARED = (
    "{}: this language model does not take a block mask with position ids, so every target has a copy of the prefix "
    "of its own; the loss is the same and training is slower."
)


def _shape(features: FeatureStore) -> tuple[int, int]:
    return features.num_patches, features.vision_width


def _check_features(images: tuple[PackedImage, ...], features: FeatureStore) -> None:
    missing = features.missing([image.image_id for image in images])
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images have no features, the first is {missing[0][:12]}…; expected one "
            "row per image. Run `frostline run RECIPE --force featurize`."
        )
