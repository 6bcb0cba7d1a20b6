"""A trained model that answers what an evaluation asks, in Ray actors: outside ZeRO, unit by unit.

Shapes: B images, P patches, V vision width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.corruptions import Corruption, corrupted
from data_prep.pins import Pin, verified_folder
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.store import open_store
from training.asking import BLIND, NO_IMAGE, Asked, Reply
from training.generation import GenerationConfig
from training.replying import replies_to
from training.shots import Shot

if TYPE_CHECKING:
    from torch import Tensor

    from data_prep.tower import Tower
    from training.few_shot import ShownBefore
    from training.head_outputs import HeadReader

IMAGES_PER_MEAN_BATCH = 64
TOWER_BATCH_SIZE = 8


class Answerer:
    """Lives in a Ray actor: what is asked in, replies out."""

    def __init__(
        self,
        store_uri: str,
        cache_dir: str,
        outputs: Mapping[str, Any],
        language_model_folder: str,
        vision_tower: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        """`outputs` are manifests: `train` (of an int8 model: its `quantise` output), `features`, `dataset`.
        `vision_tower` is a pin; it and the dataset are read for pictures that are made worse, and for nothing else."""
        import torch

        from data_prep.features import FeatureStore
        from training.head_outputs import HeadReader
        from training.objectives.answer_space import AnswerSpace
        from training.trained import is_quantised, load_trained

        torch.set_num_threads(options["threads"])
        cache = PartCache(open_store(store_uri), Path(cache_dir))
        trained, features, self.dataset = (
            Manifest.model_validate(outputs[name]) for name in ("train", "features", "dataset")
        )
        self.features, self.features_config = FeatureStore(features, cache), features.config
        self.device = "cuda" if torch.cuda.is_available() and not is_quantised(trained) else "cpu"
        model, language = load_trained(trained, self.features, Path(language_model_folder), cache, self.device)
        self.reader = HeadReader(model, language, AnswerSpace.model_validate(trained.facts["answer_space"]))
        self.cache, self.tower_pin = cache, Pin.model_validate(vision_tower)
        self.batch_size = options["batch_size"]
        self.blind_images: Sequence[str] = options["blind_images"]
        self.shots = {digest: tuple(Shot(*one) for one in shots) for digest, shots in options["shots"].items()}
        self.generation = GenerationConfig.model_validate(options["generation"])

    def run(self, unit: Sequence[Asked]) -> list[Reply]:
        """One reply each."""
        replies: list[Reply] = []
        for (_, _, blind), group in groupby((Asked(*one) for one in unit), key=_alike):
            asked = list(group)
            reader = self.blind_reader if blind else self.reader
            for start in range(0, len(asked), self.batch_size):
                batch = asked[start : start + self.batch_size]
                replies += replies_to(reader, self._patches(batch), batch, self.generation, self._shown(batch))
        return replies

    @cached_property
    def blind_reader(self) -> HeadReader:
        from training.blind import blinded
        from training.head_outputs import HeadReader

        model = blinded(self.reader.model, self._patches_of_blind())
        return HeadReader(model, self.reader.language, self.reader.space)

    def _patches_of_blind(self) -> Iterator[Tensor]:
        import torch

        # Batches of their own size: the mean is the same whatever the evaluation's.
        for start in range(0, len(self.blind_images), IMAGES_PER_MEAN_BATCH):
            ids = self.blind_images[start : start + IMAGES_PER_MEAN_BATCH]
            yield torch.from_numpy(self.features.gather(ids)).to(self.device)

    def _patches(self, asked: Sequence[Asked]) -> Any:
        """float16[B, P, V]. Where no image is looked at: zeros."""
        import numpy as np

        if _is_blind(asked[0]) or asked[0].image_id == NO_IMAGE:
            return np.zeros((len(asked), self.features.num_patches, self.features.vision_width), np.float16)
        image_ids = [one.image_id for one in asked]
        if asked[0].corruption:
            return self._patches_of_worse(image_ids, Corruption.named(asked[0].corruption))
        return self.features.gather(image_ids)

    def _shown(self, asked: Sequence[Asked]) -> ShownBefore | None:
        """By the model that looks, whoever answers: shots stay as they are where an image is left out."""
        from training.few_shot import EncodedShots, shown_before

        if not asked[0].shots:
            return None
        told = [self.shots[one.shots] for one in asked]
        encoded = [EncodedShots(shots, self.features.gather([shot.image_id for shot in shots])) for shots in told]
        return shown_before(self.reader.model, self.reader.language, encoded)

    def _patches_of_worse(self, image_ids: Sequence[str], corruption: Corruption) -> Any:
        from data_prep.dataset import images_by_id

        images = images_by_id(self.dataset, set(image_ids), self.cache)
        worse = {image_id: corrupted(data, image_id, corruption) for image_id, data in images.items()}
        return self.tower.encode([worse[image_id] for image_id in image_ids])

    @cached_property
    def tower(self) -> Tower:
        from data_prep.tower import FeatureConfig, Tower

        folder = verified_folder(self.tower_pin, self.cache.folder, self.cache.store)
        config = FeatureConfig.model_validate(self.features_config)
        return Tower(folder, config, TOWER_BATCH_SIZE, self.device)


def _alike(one: Asked) -> tuple[str, str, bool]:
    """What is asked in one batch."""
    return one.kind, one.corruption, _is_blind(one)


def _is_blind(asked: Asked) -> bool:
    return asked.image_id.startswith(BLIND)
