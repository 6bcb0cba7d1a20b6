"""JSON Lines: rows by position, and a listing that changes with the files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.sources import BadRow, SourceRow
from data_prep.sources.jsonl import Jsonl, JsonlConfig


def source(found: dict[str, Any], **more: Any) -> Jsonl:
    return Jsonl(JsonlConfig.model_validate({**found, **more}))


def facts(row: SourceRow | BadRow) -> tuple[Any, ...]:
    return (row.row, row.reason) if isinstance(row, BadRow) else (row.row, row.task, row.prompt, row.targets, row.split)


def test_captions_and_questions_in_their_four_spellings(write_source: Callable[..., dict[str, Any]]) -> None:
    lines = [
        {"image": "0.png", "captions": ["a", "b"]},
        {"image": "0.png", "caption": "c", "split": "val"},
        {"image": "0.png", "question": "how many?", "answers": ["2", "two"]},
        {"image": "0.png", "question": "how many?", "answer": 2},
    ]
    found = [facts(row) for row in source(write_source(lines, 1), split="test").rows()]
    assert found == [
        (0, "caption", "", ("a", "b"), "test"),
        (1, "caption", "", ("c",), "val"),
        (2, "vqa", "how many?", ("2", "two"), "test"),
        (3, "vqa", "how many?", ("2",), "test"),
    ]


def test_a_start_gives_the_tail_with_the_same_numbers(write_source: Callable[..., dict[str, Any]]) -> None:
    lines: list[Any] = [{"image": "0.png", "caption": str(number)} for number in range(6)]
    lines[2:2] = ["", "{torn", "  "]
    jsonl = source(write_source(lines, 1))
    rows = [facts(row) for row in jsonl.rows()]
    assert [row[0] for row in rows] == list(range(7)), "empty lines are no rows"
    for start in range(9):
        assert [facts(row) for row in jsonl.rows(start)] == rows[start:]


def test_a_byte_order_mark_is_no_part_of_the_first_row(write_source: Callable[..., dict[str, Any]]) -> None:
    found = write_source([{"image": "0.png", "caption": "a"}], 1)
    path = Path(found["path"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [facts(row) for row in source(found).rows()] == [(0, "caption", "", ("a",), None)]


def test_the_listing_changes_with_lines_and_with_pictures(write_source: Callable[..., dict[str, Any]]) -> None:
    found = write_source([{"image": "0.png", "caption": "a"}], 2)
    before = source(found).listing()
    assert source(found).listing() == before
    os.utime(Path(found["images"]) / "1.png", ns=(1, 1))
    touched = source(found).listing()
    (Path(found["images"]) / "2.png").write_bytes(b"x")
    added = source(found).listing()
    Path(found["path"]).write_text('{"image": "0.png", "caption": "bb"}\n')
    edited = source(found).listing()
    listings = [before, touched, added, edited]
    assert all(one != other for number, one in enumerate(listings) for other in listings[number + 1 :])
