"""The featurize step run to its commit, and what its features must be."""

from pathlib import Path

import torch

from data_prep.dataset import read_images
from data_prep.features import FeatureStore
from data_prep.featurize import featurize, featurize_request
from data_prep.pins import Pin, pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig, Tower
from infra.outputs import Manifest, OutputRequest, ensure_output
from infra.workspace import Workspace

DIGEST = "a" * 64
PLAIN = FeatureConfig()


def request_of(dataset: Manifest, tower_digest: str = DIGEST, config: FeatureConfig = PLAIN) -> OutputRequest:
    return featurize_request(config, "demo", dataset, tower_digest)


def encode(
    dataset: Manifest,
    tower: Path | Pin,
    workspace: Workspace,
    tower_digest: str = DIGEST,
    config: FeatureConfig = PLAIN,
) -> Manifest:
    """The committed features of this dataset."""
    pinned = tower if isinstance(tower, Pin) else pin(PretrainedRef(folder=tower), None, workspace.cache)
    return ensure_output(
        workspace.store,
        request_of(dataset, tower_digest, config),
        lambda attempt: featurize(config, dataset, pinned, attempt, workspace),
        {},
    )[0]


def images_of(dataset: Manifest, workspace: Workspace) -> dict[str, bytes]:
    return dict(row for part in dataset.parts_of("images") for row in read_images(part, workspace.cache))


def assert_features_are_those_of_each_image_alone(
    features: Manifest, dataset: Manifest, folder: Path, workspace: Workspace
) -> None:
    """Bit for bit, at the profile's batch size and threads."""
    actors = workspace.profile.featurize
    before = torch.get_num_threads()
    torch.set_num_threads(actors.threads_per_actor)
    try:
        alone = Tower(folder, FeatureConfig(), actors.rows_per_batch, "cpu")
        images = images_of(dataset, workspace)
        gathered_BPV = FeatureStore(features, workspace.cache).gather(list(images))
        for (image_id, data), features_PV in zip(images.items(), gathered_BPV, strict=True):
            assert features_PV.tobytes() == alone.encode([data]).tobytes(), image_id
    finally:
        torch.set_num_threads(before)
