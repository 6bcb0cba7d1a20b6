"""Ingest: every row accounted for, bad rows are data, the dataset is a function of its rows."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep import ingest as ingest_step
from data_prep.dataset import read_examples, read_images
from data_prep.ingest import IngestConfig, ingest, ingest_request
from data_prep.shard_writer import ShardWriter
from data_prep.sources import BadRow, SourceRow
from infra.errors import ConfigError, DataError, IntegrityError
from infra.outputs import Manifest, ensure_output, find_output
from infra.store import LocalStore
from infra.workspace import Workspace

Source = dict[str, Any]
WriteSource = Callable[..., Source]
Ingested = Callable[..., Manifest]


def captioned(numbers: range) -> list[dict[str, Any]]:
    return [{"image": f"{number}.png", "captions": [f"picture {number}", f"noise {number}"]} for number in numbers]


def rows_of(manifest: Manifest, kind: str, workspace: Workspace) -> list[dict[str, Any]]:
    return [
        row
        for part in manifest.parts_of(kind)
        for row in pq.read_table(workspace.cache.path("ingest", part)).to_pylist()
    ]


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


BAD_LINES: list[tuple[str, Any]] = [
    ("missing_file", {"image": "none.png", "caption": "a"}),
    ("missing_file", {"image": "../lines.jsonl", "caption": "a"}),
    ("missing_file", {"image": "/etc/hostname", "caption": "a"}),
    ("missing_file", {"image": "a/../../lines.jsonl", "caption": "a"}),
    ("missing_file", {"image": "", "caption": "a"}),
    ("missing_file", {"image": "a\0b.png", "caption": "a"}),
    ("unreadable_image", {"image": "half.png", "caption": "a"}),
    ("unreadable_image", {"image": "text.png", "caption": "a"}),
    ("no_targets", {"image": "0.png", "captions": []}),
    ("no_targets", {"image": "0.png", "captions": [" ", ""]}),
    ("no_targets", {"image": "0.png", "caption": None}),
    ("empty_prompt", {"image": "0.png", "question": " ", "answer": "yes"}),
    ("split_conflict", {"image": "0.png", "caption": "elsewhere", "split": "test"}),
    ("unknown_split", {"image": "1.png", "caption": "a", "split": "dev"}),
    ("unreadable_row", "{not json"),
    ("unreadable_row", "[1, 2]"),
    ("unreadable_row", "3"),
    ("unreadable_row", "[" * 100_000),
    ("unreadable_row", {"caption": "no image"}),
    ("unreadable_row", {"image": "0.png"}),
    ("unreadable_row", {"image": "0.png", "captions": "not a list"}),
    ("unreadable_row", {"image": "0.png", "question": "what?"}),
    ("unreadable_row", {"image": "0.png", "caption": "a", "attributes": ["no", "mapping"]}),
    ("unreadable_row", {"image": "0.png", "caption": "half a character \ud800", "split": "train"}),
    ("unreadable_row", {"image": "0.png", "caption": "a", "attributes": {"a": "\udfff"}, "split": "train"}),
    ("missing_file", {"image": "\ud800.png", "caption": "a"}),
]


def write_bad_files(source: Source) -> None:
    images = Path(source["images"])
    whole = (images / "0.png").read_bytes()
    (images / "half.png").write_bytes(whole[: len(whole) // 2])
    (images / "text.png").write_text("<html>not found</html>")


@pytest.mark.parametrize(("reason", "line"), BAD_LINES)
def test_a_bad_row_is_quarantined_with_its_reason(
    reason: str, line: Any, write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    good = {"image": "0.png", "caption": "good", "split": "train"}
    write_bad_files(write_source([], 2))
    manifest = ingested(write_source([good, line]), max_quarantined_fraction=0.5)
    (row,) = rows_of(manifest, "quarantine", workspace)
    assert (row["reason"], row["row"], row["source"]) == (reason, 1, "jsonl")
    assert row["message"]
    assert (manifest.counts["rows_in"], manifest.counts["rows_out"]) == (2, 1)


def test_a_line_that_is_no_text_is_quarantined(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    source = write_source(captioned(range(2)), 2)
    path = Path(source["path"])
    path.write_bytes(b"\xff\xfe\x00 not utf-8\n" + path.read_bytes())
    manifest = ingested(source, max_quarantined_fraction=0.5)
    assert [row["reason"] for row in rows_of(manifest, "quarantine", workspace)] == ["unreadable_row"]
    assert manifest.counts["rows_out"] == 2


def test_rows_in_are_rows_out_and_duplicates_and_quarantined(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    write_bad_files(write_source([], 6))
    good = captioned(range(1, 6))
    lines = [
        {"image": "0.png", "caption": "good", "split": "train"},
        *good,
        *(line for _, line in BAD_LINES),
        *good[:3],
    ]
    manifest = ingested(write_source(lines), max_quarantined_fraction=0.9, images_per_shard=2)
    assert manifest.counts == {
        "rows_in": len(lines),
        "rows_out": 6,
        "duplicates": 3,
        "quarantined": len(BAD_LINES),
        "images": 6,
    }
    assert len(rows_of(manifest, "examples", workspace)) == 6
    found = Counter(row["reason"] for row in rows_of(manifest, "quarantine", workspace))
    assert found == Counter(reason for reason, _ in BAD_LINES)
    assert manifest.facts["statistics"]["quarantined_by_reason"] == dict(found)


def test_too_many_bad_rows_stop_the_step_and_name_the_first(
    write_source: WriteSource, ingested: Ingested, store: LocalStore
) -> None:
    lines = [*captioned(range(3)), {"image": "lost.png", "caption": "a"}, {"image": "gone.png", "caption": "b"}]
    with pytest.raises(DataError) as caught:
        ingested(write_source(lines, 3), max_quarantined_fraction=0.3)
    assert "2 of 5 rows are bad, the first: jsonl row 3: lost.png" in str(caught.value)
    assert "30%" in str(caught.value)
    assert not [key for key in store.list("ingest") if key.endswith("manifest.json")]


def test_the_limit_itself_is_allowed_and_may_be_raised_without_reading_again(
    write_source: WriteSource, ingested: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source([*captioned(range(3)), {"image": "lost.png", "caption": "a"}], 3)
    with pytest.raises(DataError):
        ingested(source, max_quarantined_fraction=0.24)
    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "add", None)
        assert ingested(source, max_quarantined_fraction=0.25).counts["quarantined"] == 1


@pytest.mark.parametrize("lines", [[], [{"image": "lost.png", "caption": "a"}]])
def test_an_empty_dataset_is_an_error(lines: list[Any], write_source: WriteSource, ingested: Ingested) -> None:
    with pytest.raises(DataError, match=f"the sources hold {len(lines)} rows and no usable example; expected"):
        ingested(write_source(lines, 1), max_quarantined_fraction=1.0)


def test_sources_that_are_missing_are_named_before_any_work(write_source: WriteSource) -> None:
    source = write_source([], 1)
    for field in ("path", "images"):
        config = IngestConfig.model_validate({"sources": [{**source, field: "/no/such"}]})
        with pytest.raises(ConfigError, match="/no/such"):
            ingest_request(config, "demo")


KILLED_INGEST = """
import os, sys, json
from pathlib import Path
from data_prep import ingest as step
from infra.outputs import ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Settings, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace
from data_prep.shard_writer import ShardWriter

folder, source, kill_at = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
config = step.IngestConfig.model_validate({"sources": [source], "images_per_shard": 4, "max_quarantined_fraction": 1})
store = LocalStore(folder / "store")
workspace = Workspace(Settings(var_dir=folder), load_profile("laptop"), store, PartCache(store, folder / "c"), Silent())
add = ShardWriter.add

def count(self, row):
    if self.rows_in == kill_at:
        os.kill(os.getpid(), 9)
    add(self, row)

ShardWriter.add = count
ensure_output(store, step.ingest_request(config, "demo"), lambda attempt: step.ingest(config, attempt, workspace), {})
"""


def test_an_ingest_killed_after_its_first_shards_resumes_and_gives_the_same_dataset(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    lines = [
        *captioned(range(6)),
        *captioned(range(3)),
        {"image": "lost.png", "caption": "a"},
        *captioned(range(6, 14)),
    ]
    source = write_source(lines, 14)
    killed_dir = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_INGEST, str(killed_dir), json.dumps(source), "15"]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    settings = {"images_per_shard": 4, "max_quarantined_fraction": 1}
    undisturbed = ingested(source, **settings)

    killed = LocalStore(killed_dir / "store")
    assert not [key for key in killed.list("") if key.endswith("manifest.json")]
    assert len([key for key in killed.list("") if "/journal/" in key]) == 2
    read: list[int] = []
    add = ShardWriter.add
    monkeypatch.setattr(ShardWriter, "add", lambda self, row: (read.append(row.row), add(self, row))[1])
    config = IngestConfig.model_validate({"sources": [source], **settings})
    resumed_in = Workspace(
        workspace.settings, workspace.profile, killed, type(workspace.cache)(killed, tmp_path / "c"), workspace.progress
    )
    resumed, _ = ensure_output(
        killed, ingest_request(config, "demo"), lambda attempt: ingest(config, attempt, resumed_in), {}
    )
    assert resumed.draft == undisturbed.draft
    assert read == list(range(12, len(lines))), "it starts behind the second shard"


@pytest.mark.parametrize("fail_at", [0, 3, 4, 7, 11])
def test_an_exception_at_any_row_costs_one_shard_at_most(
    fail_at: int, write_source: WriteSource, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two sources, where the resumed position is counted over both."""
    one, two = write_source(captioned(range(6)), 6, "one"), write_source(captioned(range(4, 10)), 10, "two")
    config = IngestConfig.model_validate({"sources": [one, two], "images_per_shard": 3})
    request = ingest_request(config, "demo")
    added = Counter[tuple[str, int]]()
    add = ShardWriter.add

    def failing(self: ShardWriter, row: SourceRow) -> None:
        if self.rows_in == fail_at and not added["failed", 0]:
            added["failed", 0] += 1
            raise RuntimeError("injected")
        added[row.image_uri, row.row] += 1
        add(self, row)

    monkeypatch.setattr(ShardWriter, "add", failing)
    with pytest.raises(RuntimeError):
        ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})
    assert find_output(workspace.store, request) is None
    manifest, _ = ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})
    assert manifest.counts == {"rows_in": 12, "rows_out": 10, "duplicates": 2, "quarantined": 0, "images": 10}
    assert sum(count - 1 for count in added.values()) <= 5, "one shard of three images, and its duplicates"


def test_a_shard_of_an_unfinished_attempt_that_is_damaged_is_named_and_its_remedy_works(
    write_source: WriteSource, workspace: Workspace, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(captioned(range(6)), 6)
    config = IngestConfig.model_validate({"sources": [source], "images_per_shard": 2})
    request = ingest_request(config, "demo")

    def attempt_it() -> Manifest:
        return ensure_output(store, request, lambda attempt: ingest(config, attempt, workspace), {})[0]

    def failing(*_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(ingest_step, "_draft", failing)
        with pytest.raises(RuntimeError):
            attempt_it()
    parts = sorted((store.folder / "ingest" / "parts").iterdir())
    sizes = {part: part.stat().st_size for part in parts}
    for part in parts:
        os.truncate(part, sizes[part] // 2)
        with pytest.raises(IntegrityError, match=part.name):
            attempt_it()
        part.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(ingest_step, "_draft", failing)
            with pytest.raises(RuntimeError):
                attempt_it()
        assert part.stat().st_size == sizes[part]
        for cached in workspace.cache.folder.glob("parts/*"):
            cached.unlink()
    assert attempt_it().counts["rows_out"] == 6


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
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")

    def row(number: int, split: str | None, group: str | None) -> SourceRow:
        data = buffer.getvalue() + bytes([number])
        return SourceRow(number, "toy", lambda: data, f"{number}", "caption", "", ("a",), split, group)

    writer = ShardWriter(0.4, 0.4)
    for number in range(20):
        writer.add(row(number, None, "one video"))
    writer.add(row(20, "val", "one video"))
    splits = [example["split"] for example in writer._examples]
    assert len(set(splits[:20])) == 1
    assert splits[20] == "val"


def test_a_source_that_gives_bad_rows_itself_is_counted() -> None:
    writer = ShardWriter(0.1, 0.1)
    writer.quarantine(BadRow(7, "toy", "toy:7", "unreadable_row", "torn"))
    assert (writer.rows_in, writer.first_problem) == (1, "toy row 7: torn")


def test_the_bytes_of_an_ingest_are_those_of_this_step_version(ingested: Ingested) -> None:
    """Whoever changes this digest raises ingest's VERSION: stored outputs would otherwise pass for the new ones."""
    manifest = ingested({"kind": "digit_scenes", "num_images": 20, "seed": 0})
    assert ingest_step.VERSION == 1
    assert manifest.identity["dataset_digest"] == GOLDEN


GOLDEN = "c15e3bac2646d825ee55179b7481555d45774c369f1556b55ace8d132ad3cb80"
