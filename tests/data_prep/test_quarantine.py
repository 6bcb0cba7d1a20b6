"""Bad rows are data: each is counted and kept with its reason, too many stop the step."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_rows import captioned, rows_of

from data_prep.dataset import read_examples
from data_prep.reading import ImageReader
from infra.errors import DataError
from infra.outputs import Manifest
from infra.store import LocalStore
from infra.workspace import Workspace

Source = dict[str, Any]
WriteSource = Callable[..., Source]
Ingested = Callable[..., Manifest]


BAD_LINES: list[tuple[str, Any]] = [
    ("missing_file", {"image": "none.png", "caption": "a"}),
    ("missing_file", {"image": "../lines.jsonl", "caption": "a"}),
    ("missing_file", {"image": "/etc/hostname", "caption": "a"}),
    ("missing_file", {"image": "a/../../lines.jsonl", "caption": "a"}),
    ("missing_file", {"image": "", "caption": "a"}),
    ("missing_file", {"image": "a\0b.png", "caption": "a"}),
    ("truncated", {"image": "half.png", "caption": "a"}),
    ("format_not_allowed", {"image": "text.png", "caption": "a"}),
    ("no_targets", {"image": "0.png", "captions": []}),
    ("no_targets", {"image": "0.png", "captions": [" ", ""]}),
    ("no_targets", {"image": "0.png", "caption": None}),
    ("empty_prompt", {"image": "0.png", "question": " ", "answer": "yes"}),
    ("unknown_split", {"image": "1.png", "caption": "a", "split": "dev"}),
    ("unreadable_row", "{not json"),
    ("unreadable_row", "[1, 2]"),
    ("unreadable_row", "3"),
    ("unreadable_row", "[" * 100_000),
    ("unreadable_row", {"caption": "no image"}),
    ("unreadable_row", {"image": "0.png"}),
    ("unreadable_row", {"image": "0.png", "captions": {"not": "a list"}}),
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


def test_an_image_is_stored_though_the_first_row_that_shows_it_is_bad(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace
) -> None:
    """It is handed out to one row only."""
    lines = [{"image": "0.png", "caption": "half a character \ud800"}, {"image": "0.png", "caption": "good"}]
    manifest = ingested(write_source(lines, 1), max_quarantined_fraction=0.5)
    assert (manifest.counts["rows_out"], manifest.counts["images"]) == (1, 1)


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
        "excluded": 0,
        "leaked": 0,
        "to_try_again": 0,
    }
    assert len(read_examples(manifest, workspace.cache, ("train", "val", "test"))) == 6
    found = Counter(row["reason"] for row in rows_of(manifest, "quarantine", workspace))
    assert found == Counter(reason for reason, _ in BAD_LINES)
    assert manifest.facts["statistics"]["quarantined_by_reason"] == dict(found)


def test_too_many_bad_rows_stop_the_step_and_name_the_first(
    write_source: WriteSource, ingested: Ingested, store: LocalStore
) -> None:
    lines = [*captioned(range(3)), {"image": "lost.png", "caption": "a"}, {"image": "gone.png", "caption": "b"}]
    with pytest.raises(DataError) as caught:
        ingested(write_source(lines, 3), max_quarantined_fraction=0.3)
    assert "2 of 5 rows are bad (2 missing_file), the first: jsonl row 3: lost.png" in str(caught.value)
    assert "30%" in str(caught.value)
    assert not [key for key in store.list("ingest") if key.endswith("manifest.json")]


def test_the_limit_itself_is_allowed_and_may_be_raised_without_reading_again(
    write_source: WriteSource, ingested: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source([*captioned(range(3)), {"image": "lost.png", "caption": "a"}], 3)
    with pytest.raises(DataError):
        ingested(source, max_quarantined_fraction=0.24)
    with monkeypatch.context() as patched:
        patched.setattr(ImageReader, "read", None)
        assert ingested(source, max_quarantined_fraction=0.25).counts["quarantined"] == 1
