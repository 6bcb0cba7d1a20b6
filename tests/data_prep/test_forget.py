"""Forgetting an image: nothing in the store or the cache holds it any more, and no later ingest brings it back."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import captioned
from featurizing import encode
from stored_parts import made_by

from data_prep import featurize as featurize_step
from data_prep import reading
from data_prep.dataset import read_examples
from data_prep.features import FeatureStore
from flows.forget import forget
from infra.digests import digest_bytes
from infra.errors import ConfigError
from infra.outputs import Manifest, upload_part
from infra.repair import repair_store
from infra.verify import verify_store
from infra.workspace import Workspace

Ingested = Callable[..., Manifest]
GONE = 5


@pytest.fixture
def source(write_source: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return write_source([*captioned(range(10)), {"image": f"{GONE}.png", "question": "what?", "answer": "noise"}], 10)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode in this process instead of in actors."""

    def run(worker: type, arguments: Mapping[str, Any], units: Mapping[str, Any], _: object, keep: Any) -> None:
        encoder = worker(**arguments)
        for name, unit in units.items():
            keep(name, encoder.run(unit))

    monkeypatch.setattr(featurize_step, "run_units", run)


def predictions(image_id: str, control: str, workspace: Workspace, folder: Path) -> Manifest:
    """A committed evaluation whose predictions name these images."""
    path = folder / "predictions.parquet"
    pq.write_table(pa.table({"image_id": [image_id], "control_image_id": [control]}), path)
    part = upload_part(workspace.store, "evaluate", path, "predictions", 1)
    manifest = made_by("evaluate", [part], {"test_digest": digest_bytes(control.encode())})
    workspace.store.create(f"evaluate/{manifest.fingerprint}/manifest.json", manifest.model_dump_json().encode())
    return manifest


def every_byte(*folders: Path) -> bytes:
    """All files below the folders, Parquet columns included as they read."""
    found = io.BytesIO()
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found.write(data)
        if data[:4] == b"PAR1":
            found.write(str(pq.read_table(path).to_pydict()).encode())
    return found.getvalue()


def test_a_forgotten_image_is_nowhere_and_the_rest_is_whole(
    source: dict[str, Any],
    ingested: Ingested,
    here: None,
    vit_dir: Path,
    workspace: Workspace,
    make_picture: Callable[[int], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_picture(GONE)
    image_id, others = digest_bytes(data), [digest_bytes(make_picture(n)) for n in range(10) if n != GONE]
    dataset = ingested(source, images_per_shard=4)
    features = encode(dataset, vit_dir, workspace)
    stored = FeatureStore(features, workspace.cache)
    before_BPV = stored.gather(others)
    own_features = stored.gather([image_id]).tobytes()
    shown = predictions(others[0], image_id, workspace, tmp_path)
    apart = predictions(others[0], others[1], workspace, tmp_path)
    store_folder, cache_folder = tmp_path / "store", workspace.cache.folder
    traces = (data, own_features, image_id.encode())
    assert all(trace in every_byte(store_folder, cache_folder) for trace in traces)

    found = forget([image_id], workspace)
    assert found.datasets == [f"ingest/{dataset.fingerprint}"]
    assert found.features == [f"featurize/{features.fingerprint}"]
    assert found.evaluations == [f"evaluate/{shown.fingerprint}"]
    left = every_byte(store_folder, cache_folder).replace(_tombstone(store_folder), b"")
    assert [trace for trace in traces if trace in left] == []
    assert verify_store(workspace.store).damaged == []
    assert workspace.store.exists(f"evaluate/{apart.fingerprint}/manifest.json")

    monkeypatch.setattr(reading, "digest_bytes", None)  # no image is read
    again = ingested(source, images_per_shard=4)
    assert (again.counts["rows_out"], again.counts["images"]) == (9, 9)
    assert again.identity["dataset_digest"] != dataset.identity["dataset_digest"], "training starts anew"
    refeaturized = encode(again, vit_dir, workspace)
    assert refeaturized.counts == {"rows_out": 9, "encoded": 0, "reused": 9}
    np.testing.assert_array_equal(FeatureStore(refeaturized, workspace.cache).gather(others), before_BPV)


def _tombstone(store: Path) -> bytes:
    (entry,) = (store / "ingest" / "forgotten").iterdir()
    return entry.read_bytes()


def test_a_forgotten_image_does_not_come_back(
    source: dict[str, Any],
    ingested: Ingested,
    workspace: Workspace,
    make_picture: Callable[[int], bytes],
    tmp_path: Path,
) -> None:
    """Not with its own file read again, nor under another name."""
    ingested(source)
    forget([str(Path(source["images"]) / f"{GONE}.png")], workspace)
    (Path(source["images"]) / "renamed.png").write_bytes(make_picture(GONE))
    path = Path(source["path"])
    path.write_text(path.read_text() + json.dumps({"image": "renamed.png", "caption": "again"}) + "\n")
    manifest = ingested(source, max_quarantined_fraction=0.5)
    assert manifest.facts["statistics"]["quarantined_by_reason"] == {"forgotten": 3}
    ids = {example.image_id for example in read_examples(manifest, workspace.cache, ("train", "val", "test"))}
    assert digest_bytes(make_picture(GONE)) not in ids
    assert manifest.counts["rows_out"] == 9


def test_forgetting_again_changes_nothing(source: dict[str, Any], ingested: Ingested, workspace: Workspace) -> None:
    """Which is also how a forget that was killed goes on."""
    ingested(source)
    picture = str(Path(source["images"]) / f"{GONE}.png")
    forget([picture], workspace)
    before = {key: workspace.store.read(key) for key in workspace.store.list("")}
    again = forget([picture], workspace)
    assert (again.datasets, again.features, again.num_parts_removed) == ([], [], 0)
    assert {key: workspace.store.read(key) for key in workspace.store.list("")} == before


def test_an_output_under_repair_is_not_forgotten_with_an_image(
    source: dict[str, Any], ingested: Ingested, workspace: Workspace
) -> None:
    dataset = ingested(source, images_per_shard=4)
    damaged = dataset.parts_of("images")[0]
    workspace.store.write(f"ingest/parts/{damaged.digest}", b"damaged")
    for copy in workspace.cache.folder.glob("parts/*"):
        copy.unlink()
    repair_store(workspace.store, verify_store(workspace.store), workspace.cache)
    with pytest.raises(ConfigError, match=r"1 outputs are being repaired; .* Run first: demo"):
        forget([digest_bytes(b"another")], workspace)
    again = ingested(source, images_per_shard=4)
    assert again.parts == dataset.parts
    assert forget([digest_bytes(b"another")], workspace).datasets == []


def test_what_is_no_image_id_and_no_file_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="'5\\.png' is no file and no image id"):
        forget(["5.png"], workspace)
    assert workspace.store.list("") == []
