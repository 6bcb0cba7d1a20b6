"""The real ingest into an S3 that fails: the dataset of an undisturbed one, or one clear error."""

import io
import json
import os
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_rows import rows_of
from faulty_s3 import faulty_s3
from PIL import Image

from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from infra.errors import PlatformError
from infra.outputs import Manifest, ensure_output
from infra.part_cache import PartCache
from infra.store import open_store
from infra.verify import verify_store
from infra.workspace import Workspace

NUM_IMAGES = 9
BOUNDED = [(0.05, 1), (0.2, 1)]
WHOLE = [(0.01, 3), (0.05, 5), (0.2, 15)]
"""(share of spoiled answers, number of seeds)"""


@pytest.fixture
def config(tmp_path: Path) -> IngestConfig:
    """Nine pictures; twelve rows, of which one repeats another and one has no picture."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        (images / f"{number}.png").write_bytes(buffer.getvalue())
    lines = [{"image": f"{number}.png", "caption": f"picture {number}"} for number in range(NUM_IMAGES)]
    lines += [{"image": "0.png", "caption": "again"}, lines[1], {"image": "lost.png", "caption": "a"}]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "lines.jsonl"), "images": str(images)}
    return IngestConfig.model_validate({"sources": [source], "images_per_shard": 3, "max_quarantined_fraction": 0.5})


class Ingester:
    """Ingests into stores of one bucket, each time through a connection and a cache of its own."""

    def __init__(self, config: IngestConfig, workspace: Workspace, folder: Path) -> None:
        self.config, self.workspace, self.folder = config, workspace, folder

    def run(self, uri: str) -> Manifest:
        here = self._connected(uri)
        request = ingest_request(self.config, "demo", here.store)
        return ensure_output(here.store, request, lambda attempt: ingest(self.config, attempt, here), {})[0]

    def rows(self, uri: str, dataset: Manifest) -> list[tuple[str, str]]:
        """Every stored row, in one order."""
        here = self._connected(uri)
        kinds = ("examples", "quarantine", "images", "masked")
        return sorted((kind, repr(sorted(row.items()))) for kind in kinds for row in rows_of(dataset, kind, here))

    def _connected(self, uri: str) -> Workspace:
        store = open_store(uri)
        return replace(self.workspace, store=store, cache=PartCache(store, self.folder / uuid.uuid4().hex))


def outcome(ingester: Ingester, uri: str) -> Manifest | PlatformError:
    try:
        return ingester.run(uri)
    except PlatformError as error:
        assert "\n" not in str(error)
        return error


def run_all(ingester: Ingester, s3: str, plan: list[tuple[float, int]]) -> None:
    """Two ingests at a time; what is committed is compared without faults."""
    undisturbed = ingester.run(f"{s3}/undisturbed")
    assert (undisturbed.counts["rows_in"], undisturbed.counts["quarantined"]) == (NUM_IMAGES + 3, 1)
    expected = ingester.rows(f"{s3}/undisturbed", undisturbed)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    injected: Counter[str] = Counter()
    for rate, num_seeds in plan:
        outcomes: list[Manifest | PlatformError] = []
        for seed in range(num_seeds):
            uri = f"{s3}/{rate}-{seed}"
            with faulty_s3(endpoint, rate, seed) as proxy, pytest.MonkeyPatch.context() as patch:
                proxy.silence_seconds = 0.8
                patch.setenv("AWS_ENDPOINT_URL", proxy.url)
                with ThreadPoolExecutor(2) as pool:
                    outcomes += pool.map(lambda _, uri=uri: outcome(ingester, uri), range(2))
            injected += proxy.injected
            for found in outcomes[-2:]:
                if isinstance(found, Manifest):
                    assert found.identity == undisturbed.identity
                    assert found.counts == undisturbed.counts
                    assert ingester.rows(uri, found) == expected
            assert verify_store(open_store(uri)).damaged == []
        failed = [found for found in outcomes if isinstance(found, PlatformError)]
        print(f"{rate:.0%} faults: {len(outcomes) - len(failed)} of {len(outcomes)} complete and right")
        assert len(failed) <= (0.01 if rate > 0.05 else 0) * len(outcomes), failed
    print(dict(injected))
    assert injected.total() > 10


@pytest.fixture
def ingester(config: IngestConfig, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ingester:
    monkeypatch.setenv("FROSTLINE_S3_READ_TIMEOUT_SECONDS", "0.5")
    return Ingester(config, workspace, tmp_path / "caches")


@pytest.mark.slow
def test_an_ingest_comes_through_a_faulty_s3_with_every_row_once(ingester: Ingester, s3: str) -> None:
    """Shown to fail by reading a part, a note or a log entry once only, and by trying a request once only."""
    run_all(ingester, s3, BOUNDED)


@pytest.mark.faults
def test_an_ingest_comes_through_a_faulty_s3_with_every_row_once_many_times(ingester: Ingester, s3: str) -> None:
    run_all(ingester, s3, WHOLE)
