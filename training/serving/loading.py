"""Loading a version where a replica runs: every byte is verified first, on its own machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data_prep.feature_parts import STEP as FEATURIZE
from data_prep.tower import FeatureConfig
from infra.errors import ConfigError
from infra.outputs import manifest_key, read_manifest
from infra.part_cache import PartCache
from infra.settings import cache_on_this_node
from infra.store import Store, open_store
from infra.tracking import Registry
from training.package import ModelCard
from training.predictor import Predictor, fetch_package
from training.serving.engine import Engine
from training.serving.similar import SimilarImages


@dataclass(frozen=True)
class VersionPlace:
    """Which version, and where its files and frozen models are."""

    model_name: str
    version: str
    package: Path
    """Where the server has the package folder; elsewhere it is fetched."""
    tracking_uri: str
    store_uri: str
    cache_dir: Path
    features: str
    """Fingerprint of the featurize output to look for similar images in, and of the dataset behind it."""
    dataset: str


def load_engine(place: VersionPlace, threads: int) -> Engine:
    """Raises IntegrityError where a byte is not as registered."""
    import torch

    torch.set_num_threads(threads)
    store, cache_dir = open_store(place.store_uri), cache_on_this_node(place.cache_dir)
    folder = place.package
    if not folder.is_dir():
        registry = Registry(place.tracking_uri)
        folder = fetch_package(registry, registry.version(place.model_name, place.version), cache_dir)
    predictor = Predictor.load(folder, cache_dir, store, threads=threads)
    check_index(place, predictor.package.card, store)
    similar = SimilarImages.of(place.features, place.dataset, store, PartCache(store, cache_dir))
    return Engine(predictor, place.version, similar)


def check_index(place: VersionPlace, card: ModelCard, store: Store) -> None:
    """Raises ConfigError where the features to search in are not those that this model's tower gives."""
    found = read_manifest(store, manifest_key(FEATURIZE, place.features))
    if found is None:
        return
    theirs = found.inputs["tower_digest"], FeatureConfig.model_validate(found.config)
    if theirs != (card.vision_tower.digest, card.features):
        raise ConfigError(
            f"models:/{place.model_name}/{place.version}: featurize output {place.features[:12]}… is of another tower "
            "or of other settings; expected features that this model reads. Name another one with --index."
        )


def threads_of_environment() -> int:
    """What `worker_environment` gave this process."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))
