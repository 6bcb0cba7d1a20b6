"""Train and val images that look like a test image are listed, and training does not see them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_rows import rows_of
from PIL import Image

from data_prep import drafting
from data_prep.dataset import read_examples
from data_prep.schemas import excluded_schema
from infra.outputs import Manifest
from infra.workspace import Workspace

Ingested = Callable[..., Manifest]


def saved_again(data: bytes) -> bytes:
    """Other bytes, the same pixels."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, format="PNG", compress_level=1)
    assert buffer.getvalue() != data
    return buffer.getvalue()


def tilted(data: bytes) -> bytes:
    """A picture whose hash differs in a few bits."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).rotate(2, resample=Image.Resampling.BILINEAR).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def source(write_source: Callable[..., dict[str, Any]], make_picture: Callable[[int], bytes]) -> dict[str, Any]:
    """0 is a test image, `copy` and `tilted` are in train and val, 1 is another train image."""
    lines = [
        {"image": "0.png", "caption": "test", "split": "test"},
        {"image": "copy.png", "caption": "a copy", "split": "train"},
        {"image": "tilted.png", "caption": "tilted", "split": "val"},
        {"image": "1.png", "caption": "another", "split": "train"},
        {"image": "twin.png", "caption": "a twin of it", "split": "train"},
    ]
    found = write_source(lines, 2)
    images = Path(found["images"])
    (images / "copy.png").write_bytes(saved_again(make_picture(0)))
    (images / "twin.png").write_bytes(saved_again(make_picture(1)))
    (images / "tilted.png").write_bytes(tilted(make_picture(0)))
    return found


def test_a_copy_of_a_test_image_is_excluded_and_not_trained_on(
    source: dict[str, Any], ingested: Ingested, workspace: Workspace
) -> None:
    """Two train images that look alike both stay: near-duplicates are compared to test images only."""
    manifest = ingested(source)
    (row,) = rows_of(manifest, "excluded", workspace)
    assert (row["split"], row["distance"]) == ("train", 0)
    assert (manifest.counts["excluded"], manifest.counts["leaked"]) == (1, 0)
    texts = {example.targets[0] for example in read_examples(manifest, workspace.cache, ("train", "val"))}
    assert texts == {"tilted", "another", "a twin of it"}
    assert [e.targets[0] for e in read_examples(manifest, workspace.cache, ("test",))] == ["test"]


@pytest.mark.parametrize(("distance", "leaked"), [(0, 1), (16, 2)])
def test_what_is_left_to_leak_is_counted_apart_from_the_exclusion(
    distance: int, leaked: int, source: dict[str, Any], ingested: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were nothing excluded, the count would say so."""
    monkeypatch.setattr(drafting, "excluded_table", lambda *_: excluded_schema().empty_table())
    assert ingested(source, near_duplicate_distance=distance).counts["leaked"] == leaked


def test_the_distance_decides_and_changes_the_dataset_without_reading_an_image(
    source: dict[str, Any], ingested: Ingested, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = ingested(source)
    monkeypatch.setattr("data_prep.reading.digest_bytes", None)
    wide = ingested(source, near_duplicate_distance=16)
    assert {row["distance"] > 0 for row in rows_of(wide, "excluded", workspace)} == {True, False}
    assert {row["split"] for row in rows_of(wide, "excluded", workspace)} == {"train", "val"}
    assert wide.identity["dataset_digest"] != strict.identity["dataset_digest"], "training is another one"
    assert wide.identity["test_digest"] == strict.identity["test_digest"]
    texts = {example.targets[0] for example in read_examples(wide, workspace.cache, ("train", "val"))}
    assert texts == {"another", "a twin of it"}
