"""`frostline watch`: which images of today are compared with those of the champion's training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from feeds import write_feed
from stored_parts import noise

from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from flows.watching import Growth
from infra.outputs import Manifest, ensure_output
from infra.workspace import Workspace
from training.retrain_rule import MINIMUM_NEW_IMAGES, WatchRule

Ingested = Callable[..., Manifest]


@pytest.fixture
def ingested(workspace: Workspace, tmp_path: Path) -> Ingested:
    """A dataset with so many images of each split."""

    def run(**num_images: int) -> Manifest:
        names = [f"{split}{number}" for split, count in num_images.items() for number in range(count)]
        pictures = {f"{name}.png": noise(seed_of(name)) for name in names}
        lines = [{"image": f"{name}.png", "caption": name, "split": name.rstrip("0123456789")} for name in names]
        source = write_feed(tmp_path / "feed", list(lines), pictures, len(names))
        config = IngestConfig.model_validate({"sources": [source]})
        request = ingest_request(config, "weekly", workspace.store)
        return ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})[0]

    return run


def seed_of(name: str) -> int:
    return int.from_bytes(name.encode())


def test_new_images_of_other_splits_are_no_drift(ingested: Ingested, workspace: Workspace) -> None:
    many = MINIMUM_NEW_IMAGES
    grown = Growth(ingested(train=5, val=1, test=2), ingested(train=6, val=1 + many, test=2 + many), workspace)
    assert (len(grown.trained_images), len(grown.new_images)) == (5, 1)
    assert len(grown.new_examples) == 1 + 2 * many  # they may call for a retrain by their number
    assert not grown.can_drift(WatchRule())
