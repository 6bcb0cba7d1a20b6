"""`verify --repair` and another run make exactly the damaged parts again: same bytes, nothing else is touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_rows import captioned, rows_of

from data_prep import reading
from infra.outputs import Manifest, Part
from infra.repair import repair_store
from infra.store import LocalStore
from infra.verify import verify_store
from infra.workspace import Workspace

WriteSource = Callable[..., dict[str, Any]]
Ingested = Callable[..., Manifest]
SHARED = [{"image": "0.png", "caption": "shown again much later"}]


def damage(store: LocalStore, part: Part) -> None:
    path = store.folder / "ingest" / "parts" / part.digest
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def repaired(workspace: Workspace) -> None:
    report = verify_store(workspace.store)
    repair_store(workspace.store, report, workspace.cache)
    assert verify_store(workspace.store).damaged == []


def listed(manifest: Manifest) -> list[tuple[str, str]]:
    return [(part.kind, part.digest) for part in manifest.parts]


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images whose files were read."""
    names: list[str] = []
    read = reading.ImageReader.read

    def counted(reader: reading.ImageReader, new: Any) -> Any:
        row, data = read(reader, new)
        if data is not None:
            names.append(Path(new.row.image.uri).name)
        return row, data

    monkeypatch.setattr(reading.ImageReader, "read", counted)
    return names


@pytest.mark.parametrize("kind", ["images", "image_index", "examples", "quarantine", "files", "masked"])
def test_a_dataset_is_whole_again_and_only_the_damaged_shard_was_read(
    kind: str, write_source: WriteSource, ingested: Ingested, workspace: Workspace, images_read: list[str]
) -> None:
    shown_again = [] if kind == "examples" else SHARED  # which of its images later rows need, nobody could say
    lines = [*captioned(range(8)), {"image": "lost.png", "caption": "a"}, *captioned(range(6, 8)), *shown_again]
    source = write_source(lines, 8)
    more = {"images_per_shard": 2, "max_quarantined_fraction": 1}
    before = ingested(source, **more)
    damaged = before.parts_of(kind)[0]
    store = workspace.store
    assert isinstance(store, LocalStore)
    damage(store, damaged)
    report = verify_store(store)
    (found,) = report.damaged
    assert (found.file, found.outputs) == (
        f"ingest/parts/{damaged.digest}",
        (f"ingest/{before.fingerprint}/manifest.json",),
    )
    written = {key: (store.folder / key).stat().st_mtime_ns for key in store.list("ingest/parts")}
    repaired(workspace)
    assert store.list(f"ingest/{before.fingerprint}") == []
    images_read.clear()
    after = ingested(source, **more)
    assert listed(after) == listed(before)
    assert after.identity == before.identity
    assert verify_store(store).damaged == []
    made_again = {Path(key).name for key, at in written.items() if (store.folder / key).stat().st_mtime_ns != at}
    shard = [part for part in before.parts if part.facts.get("shard") == damaged.facts.get("shard", "none")]
    assert made_again == {part.digest for part in [*shard, *whole_tables(before)]}
    assert len(images_read) == (2 if kind in ("images", "image_index", "examples") else 0)
    assert store.list("ingest/journal") == []


def whole_tables(dataset: Manifest) -> list[Part]:
    """Parts that tell of all shards and are written by every ingest."""
    return [part for part in dataset.parts if "shard" not in part.facts]


def test_a_dataset_that_goes_on_from_a_damaged_one_loses_no_row_and_no_image(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    """The image of a damaged shard is shown by a row of a whole one, and its own row is withdrawn meanwhile.

    Shown to fail by going on from whole shards without looking for images that went with the others."""
    lines = [*captioned(range(8)), *SHARED]
    source = write_source(lines, 8)
    before = ingested(source, images_per_shard=2)
    store = workspace.store
    assert isinstance(store, LocalStore)
    damage(store, before.parts_of("images")[0])
    repaired(workspace)
    write_source(lines[1:])
    after = ingested(source, images_per_shard=2)
    shown = {row["image_id"] for row in rows_of(after, "examples", workspace)}
    assert shown == {row["image_id"] for row in rows_of(after, "images", workspace)}
    assert after.counts["rows_out"] == before.counts["rows_out"] - 1
