"""Ingest: the dataset is a function of its rows, images are stored once and never change split."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_rows import captioned, rows_of

from data_prep import ingest as ingest_step
from data_prep.dataset import read_examples, read_images
from data_prep.ingest import ingest_request
from data_prep.ingest_config import IngestConfig
from data_prep.shard_writer import NewRow, ShardWriter
from data_prep.sources import ImageRef, SourceRow
from infra.errors import ConfigError, DataError
from infra.outputs import Manifest
from infra.workspace import Workspace

Source = dict[str, Any]
WriteSource = Callable[..., Source]
Ingested = Callable[..., Manifest]


def splits_of(manifest: Manifest, workspace: Workspace) -> dict[str, str]:
    examples = read_examples(manifest, workspace.cache, ("train", "val", "test"))
    return {example.image_id: example.split for example in examples}


def test_rows_of_a_source_become_examples_and_images(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace, make_picture: Callable[[int], bytes]
) -> None:
    question = {"image": "0.png", "question": "what is it?", "answers": ["noise"], "attributes": {"kind": "what"}}
    manifest = ingested(write_source([*captioned(range(2)), question], 2))
    examples = read_examples(manifest, workspace.cache, ("train", "val", "test"))
    found = {(example.task, example.prompt, example.targets) for example in examples}
    assert found == {
        ("caption", "", ("picture 0", "noise 0")),
        ("caption", "", ("picture 1", "noise 1")),
        ("vqa", "what is it?", ("noise",)),
    }
    assert [example.attributes for example in examples if example.task == "vqa"] == [{"kind": "what"}]
    images = dict(row for part in manifest.parts_of("images") for row in read_images(part, workspace.cache))
    assert images == {hashlib.sha256(make_picture(n)).hexdigest(): make_picture(n) for n in range(2)}
    assert {example.image_id for example in examples} == set(images)


def test_an_image_is_stored_once_however_many_rows_show_it(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    """Under two names, too: an image is its bytes."""
    source = write_source([], 3)
    (Path(source["images"]) / "copy.png").write_bytes((Path(source["images"]) / "0.png").read_bytes())
    lines = [
        *[{"image": "0.png", "question": f"what {n}?", "answer": "noise"} for n in range(10)],
        {"image": "copy.png", "caption": "a copy"},
        *captioned(range(1, 3)),
    ]
    manifest = ingested(write_source(lines), images_per_shard=2)
    assert manifest.counts["images"] == 3
    ids = [row["image_id"] for row in rows_of(manifest, "images", workspace)]
    assert len(ids) == len(set(ids)) == 3


@pytest.mark.parametrize("lines", [[], [{"image": "lost.png", "caption": "a"}]])
def test_an_empty_dataset_is_an_error(lines: list[Any], write_source: WriteSource, ingested: Ingested) -> None:
    with pytest.raises(DataError, match=f"the sources hold {len(lines)} rows and no usable example; expected"):
        ingested(write_source(lines, 1), max_quarantined_fraction=1.0)


def test_sources_that_are_missing_are_named_before_any_work(write_source: WriteSource, workspace: Workspace) -> None:
    source = write_source([], 1)
    for field in ("path", "images"):
        config = IngestConfig.model_validate({"sources": [{**source, field: "/no/such"}]})
        with pytest.raises(ConfigError, match="/no/such"):
            ingest_request(config, "demo", workspace.store)


def test_the_dataset_digest_ignores_shards_source_order_and_increments(
    write_source: WriteSource, ingested: Ingested
) -> None:
    lines = captioned(range(9))
    together = ingested(write_source(lines, 9, "all"))
    sharded = ingested(write_source(lines, 9, "all"), images_per_shard=2)
    turned = ingested(write_source(lines[::-1], 9, "turned"))
    one, two = write_source(lines[:4], 4, "one"), write_source(lines[4:], 9, "two")
    increments = [ingested(one, two), ingested(two, one)]
    for other in (sharded, turned, *increments):
        assert other.identity == together.identity
        assert other.fingerprint != together.fingerprint


@pytest.mark.parametrize(
    "line",
    [
        {"image": "2.png", "captions": ["picture 2", "noise 3"]},
        {"image": "0.png", "captions": ["picture 2", "noise 2"]},
        {"image": "2.png", "question": "which?", "answers": ["picture 2", "noise 2"]},
        {"image": "2.png", "captions": ["picture 2", "noise 2"], "attributes": {"a": "b"}},
    ],
    ids=["target", "image", "task", "attribute"],
)
def test_the_dataset_digest_changes_with_each_fact_of_a_row(
    line: dict[str, Any], write_source: WriteSource, ingested: Ingested
) -> None:
    lines = captioned(range(3))
    before = ingested(write_source(lines, 3, "before"))
    after = ingested(write_source([*lines[:2], line], 3, "after"))
    assert before.identity["dataset_digest"] != after.identity["dataset_digest"]


def test_growth_never_moves_an_image_between_splits(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    few = splits_of(ingested(write_source(captioned(range(30)), 30, "few")), workspace)
    more = splits_of(ingested(write_source(captioned(range(60))[::-1], 60, "more")), workspace)
    assert set(few.values()) == {"train", "val", "test"}
    assert len(more) == 60
    assert all(more[image_id] == split for image_id, split in few.items())


def test_images_of_one_group_share_a_split_and_the_sources_own_split_wins() -> None:
    def row(number: int, split: str | None, group: str | None) -> NewRow:
        image = ImageRef(f"toy://{number}", f"{number}", "1", bytes)
        source_row = SourceRow(number, image, "caption", targets=("a",), split=split, split_group=group)
        return NewRow(source_row, "toy", 1.0, bytes(32), bytes(32))

    writer = ShardWriter(100, {"val": 0.4, "test": 0.4})
    for number in range(20):
        writer.add(row(number, None, "one video"), f"{number:064x}", None)
    writer.add(row(20, "val", "one video"), f"{20:064x}", None)
    splits = [example["split"] for example in writer._examples]
    assert len(set(splits[:20])) == 1
    assert splits[20] == "val"


def test_the_bytes_of_an_ingest_are_those_of_this_step_version(ingested: Ingested) -> None:
    """Whoever changes this digest raises ingest's VERSION: stored outputs would otherwise pass for the new ones."""
    manifest = ingested({"kind": "digit_scenes", "num_images": 20, "seed": 0})
    assert ingest_step.VERSION == 2
    assert manifest.identity["dataset_digest"] == GOLDEN


GOLDEN = "815626ae42dbdc0bf40d2b39ca683ef44f19dc9dfa74d08da5e3c6b891701fc1"
