"""From a job to everything a rank trains with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from data_prep.dataset import read_examples
from data_prep.features import FeatureStore
from data_prep.views import ORIGINAL
from infra.errors import ConfigError, DataError
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.store import open_store
from training.checkpoints import CheckpointFolder
from training.config import TrainConfig
from training.data import Batcher, Ranks, TrainingOrder
from training.job import TrainJob, checkpoint_prefix
from training.lit.material import lit_material
from training.material import Examples, Material
from training.packing import PackedImage
from training.prefix_material import prefix_material
from training.tokenising import check_objectives


@dataclass(frozen=True)
class Prepared:
    """A rank's data, before any step."""

    job: TrainJob
    material: Material
    order: TrainingOrder
    validation: tuple[PackedImage, ...]
    checkpoints: CheckpointFolder
    facts: dict[str, object]
    """Numbers of images, examples and targets."""

    @property
    def batcher(self) -> Batcher:
        return self.material.batcher

    def validation_batches(self) -> list[list[PackedImage]]:
        size = self.job.config.global_batch_images
        return [list(self.validation[start : start + size]) for start in range(0, len(self.validation), size)]

    def build_model(self) -> nn.Module:
        """Fresh, with everything of the regime marked as trained."""
        return self.material.build_model()


def prepare(job: TrainJob, rank: int, num_ranks: int) -> Prepared:
    """Read, tokenise and check everything, so that what is wrong shows before the first step."""
    config = job.config
    store = open_store(job.store_uri)
    _check_shapes(job.features)
    cache = PartCache(store, job.cache_dir)
    features = FeatureStore(job.features, cache)
    found = read_examples(job.dataset, cache, ["train", "val"])
    examples = Examples([e for e in found if e.split == "train"], [e for e in found if e.split == "val"])
    make = lit_material if config.regime.kind == "lit" else prefix_material
    material = make(job, features, examples, Ranks(rank, num_ranks, job.resources.micro_batch_tokens))
    check_objectives(material.train, config)
    order = TrainingOrder(material.train, config, job.dataset.identity["dataset_digest"])
    validation = tuple(order.bounded(image, epoch=0) for image in material.val[: config.validation_images])
    _check_stopping(validation, config)
    consistency = config.regularisers.consistency
    for view in {ORIGINAL, (consistency and consistency.view) or ORIGINAL}:
        _check_features((*material.train, *validation), features, view)
    facts: dict[str, object] = {
        "num_train_images": len(material.train),
        "num_train_examples": len({branch.example_id for image in material.train for branch in image.branches}),
        "num_train_targets": sum(len(image.branches) for image in material.train),
    }
    return Prepared(
        job,
        material,
        order,
        validation,
        CheckpointFolder(store, checkpoint_prefix(job.fingerprint), config.keep_checkpoints),
        facts,
    )


def _check_stopping(validation: Sequence[PackedImage], config: TrainConfig) -> None:
    """Raises ConfigError where validations will never give the metric that decides."""
    stopping, names = config.stopping, config.objectives.names
    found = {names[branch.objective] for image in validation for branch in image.branches}
    curves = {f"val_loss_{name}" for name in found} | ({"val_loss"} if found else set())
    if stopping.needs_validation and stopping.metric not in curves:
        raise ConfigError(
            f"training.stopping waits for {stopping.metric}, and the val split has examples of "
            f"{', '.join(sorted(found)) or 'no objective'}; expected some that give it. Add val examples, name another "
            "metric, or leave stopping out."
        )


def _check_shapes(features: Manifest) -> None:
    """Raises DataError where parts are not what the manifest says: in another shape they would still be numbers."""
    expected = (features.facts["num_patches"], features.facts["vision_width"])
    for part in features.parts_of("features"):
        found = (part.facts["num_patches"], part.facts["vision_width"])
        if found != expected:
            raise DataError(
                f"feature part {part.digest[:12]}… holds {found[0]} patches of width {found[1]} an image; expected "
                f"{expected[0]} of width {expected[1]}, as the recipe's vision tower gives. Run `frostline run RECIPE "
                "--force featurize`."
            )


def _check_features(images: tuple[PackedImage, ...], features: FeatureStore, view: str) -> None:
    missing = features.missing([image.image_id for image in images], view)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images have no features, the first is {missing[0][:12]}…; expected one "
            "row per image. Run `frostline run RECIPE --force featurize`."
        )
