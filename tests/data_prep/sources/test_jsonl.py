"""JSON Lines: rows by position, tasks by what is filled, and versions that change with the files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_rows import all_rows, bad_rows, fault_of, good_rows, opened, versions

from data_prep.sources import BadRow, SourceRow
from data_prep.sources import files as files_module
from infra.errors import ConfigError

WriteSource = Callable[..., dict[str, Any]]


def told(row: SourceRow | BadRow) -> tuple[Any, ...]:
    return (row.row, row.reason) if isinstance(row, BadRow) else (row.row, row.task, row.prompt, row.targets, row.split)


def test_captions_and_questions_in_their_four_spellings(write_source: WriteSource) -> None:
    lines = [
        {"image": "0.png", "captions": ["a", "b"]},
        {"image": "0.png", "caption": "c", "split": "val"},
        {"image": "0.png", "question": "how many?", "answers": ["2", "two"]},
        {"image": "0.png", "question": "how many?", "answer": 2},
    ]
    assert [told(row) for row in all_rows(opened(**write_source(lines, 1), split="test"))] == [
        (0, "caption", "", ("a", "b"), "test"),
        (1, "caption", "", ("c",), "val"),
        (2, "vqa", "how many?", ("2", "two"), "test"),
        (3, "vqa", "how many?", ("2",), "test"),
    ]


def test_labels_and_numbers_are_tasks_of_their_own(write_source: WriteSource) -> None:
    lines = [
        {"image": "0.png", "label": "cat", "split_group": "video 7", "attributes": {"camera": 2, "night": None}},
        {"image": "0.png", "numbers": [1, 2.5]},
        {"image": "0.png", "numbers": 3},
    ]
    label, two, one = good_rows(opened(**write_source(lines, 1)))
    assert (label.task, label.label, label.targets) == ("classify", "cat", ("cat",))
    assert (label.split_group, label.attributes) == ("video 7", {"camera": "2"})
    assert (two.task, two.numbers, two.targets, two.label) == ("regress", (1.0, 2.5), (), None)
    assert one.numbers == (3.0,)


def test_columns_are_mapped_in_the_recipe(write_source: WriteSource) -> None:
    lines = [{"picture": "0.png", "en": "a dog", "de": "ein Hund", "wrong": ["a cat", "a cow"], "kind": "swap"}]
    columns = {"image": "picture", "caption": ["en", "de"], "negatives": "wrong", "attributes": "kind"}
    (row,) = good_rows(opened(**write_source(lines, 1), columns=columns))
    assert (row.targets, row.negatives) == (("a dog", "ein Hund"), ("a cat", "a cow"))
    assert row.attributes == {"kind": "swap"}


def test_one_file_may_be_read_as_two_tasks(write_source: WriteSource) -> None:
    source = write_source([{"image": "0.png", "caption": "a frog in grass", "label": "frog"}], 1)
    (caption,) = good_rows(opened(**source))
    (label,) = good_rows(opened(**source, task="classify"))
    assert (caption.task, caption.targets, caption.label) == ("caption", ("a frog in grass",), None)
    assert (label.task, label.targets, label.label) == ("classify", ("frog",), "frog")


def test_empty_lines_are_no_rows_and_torn_ones_are_bad_rows(write_source: WriteSource) -> None:
    lines: list[Any] = [{"image": "0.png", "caption": str(number)} for number in range(4)]
    lines[2:2] = ["", "{torn", "  "]
    rows = all_rows(opened(**write_source(lines, 1)))
    assert [row.row for row in rows] == list(range(5))
    (bad,) = (row for row in rows if isinstance(row, BadRow))
    assert (bad.row, bad.name, bad.reason) == (2, "lines.jsonl:4", "unreadable_row")


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        "3",
        "[" * 100_000,
        {"caption": "no image"},
        {"image": "0.png"},
        {"image": "0.png", "captions": {"a": 1}},
        {"image": "0.png", "captions": [["a"]]},
        {"image": "0.png", "question": "what?"},
        {"image": "0.png", "question": ["what?"], "answer": "a"},
        {"image": "0.png", "caption": "a", "attributes": ["no", "mapping"]},
        {"image": "0.png", "caption": "a", "split": ["train"]},
        {"image": "0.png", "caption": "a\0b"},
        {"image": "0.png", "caption": "a" * 100_001},
        {"image": "0.png", "numbers": "three"},
        {"image": "0.png", "numbers": [True]},
        '{"image": "0.png", "numbers": [NaN]}',
        '{"image": "0.png", "numbers": [1e999]}',
        '{"image": "0.png", "caption": ' + "9" * 5000 + "}",
    ],
)
def test_a_line_that_makes_no_row_is_a_bad_row(line: Any, write_source: WriteSource) -> None:
    good = {"image": "0.png", "caption": "a"}
    source = opened(**write_source([line, good], 1))
    assert [told(row) for row in all_rows(source)] == [(0, "unreadable_row"), (1, "caption", "", ("a",), None)]


@pytest.mark.parametrize(
    "line", [{"image": "0.png", "captions": []}, {"image": "0.png", "caption": None}, {"image": "0.png", "label": None}]
)
def test_a_column_that_is_there_and_empty_is_a_row_without_targets(line: Any, write_source: WriteSource) -> None:
    (row,) = good_rows(opened(**write_source([line], 1)))
    assert row.targets == ()


@pytest.mark.parametrize("name", ["none.png", "../lines.jsonl", "/etc/hostname", "a/../0.png", "", "a\0b", "\ud800", 7])
def test_a_name_that_is_not_in_the_listing_is_a_missing_file(name: Any, write_source: WriteSource) -> None:
    (row,) = good_rows(opened(**write_source([{"image": name, "caption": "a"}], 1)))
    assert (row.image.version, fault_of(row)) == ("missing", "missing_file")


def test_a_name_may_be_spelt_with_a_dot(write_source: WriteSource, make_picture: Callable[[int], bytes]) -> None:
    (row,) = good_rows(opened(**write_source([{"image": "./0.png", "caption": "a"}], 1)))
    assert row.image.read() == make_picture(0)
    assert row.image.uri.endswith("/images/0.png")


def test_a_file_that_is_too_large_is_not_read(write_source: WriteSource) -> None:
    source = write_source([{"image": "huge.png", "caption": "a"}])
    with (Path(source["images"]) / "huge.png").open("wb") as huge:
        huge.truncate(2**40)
    (row,) = good_rows(opened(**source))
    assert fault_of(row) == "too_large"


def test_a_byte_order_mark_is_no_part_of_the_first_row(write_source: WriteSource) -> None:
    found = write_source([{"image": "0.png", "caption": "a"}], 1)
    path = Path(found["path"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [told(row) for row in all_rows(opened(**found))] == [(0, "caption", "", ("a",), None)]


def test_a_line_without_end_is_one_bad_row_and_its_rest_is_skipped(
    write_source: WriteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown to fail by reading lines with the file's own iterator, which would hold the whole line."""
    for module in ("files", "jsonl"):
        monkeypatch.setattr(f"data_prep.sources.{module}.MAX_LINE_BYTES", 100)
    good = {"image": "0.png", "caption": "a"}
    source = opened(**write_source([{"image": "0.png", "caption": "x" * 950}, good], 1))
    assert [told(row) for row in all_rows(source)] == [(0, "unreadable_row"), (1, "caption", "", ("a",), None)]
    (file,) = source.files()
    with Path(file.uri).open("rb") as lines:
        assert max(map(len, files_module.lines_of(lines))) == 101


def test_a_line_that_is_no_text_is_a_bad_row(write_source: WriteSource) -> None:
    source = write_source([{"image": "0.png", "caption": "a"}], 1)
    path = Path(source["path"])
    path.write_bytes(b"\xff\xfe\x00 not utf-8\n\0\0\0\n" + path.read_bytes())
    assert len(bad_rows(opened(**source))) == 2
    assert len(all_rows(opened(**source))) == 3


def test_versions_change_with_lines_with_pictures_and_with_the_mapping(write_source: WriteSource) -> None:
    found = write_source([{"image": "0.png", "caption": "a"}], 2)
    seen = [versions(opened(**found))]
    assert versions(opened(**found)) == seen[0]
    os.utime(Path(found["images"]) / "1.png", ns=(1, 1))
    seen.append(versions(opened(**found)))
    (Path(found["images"]) / "2.png").write_bytes(b"x")
    seen.append(versions(opened(**found)))
    Path(found["path"]).write_text('{"image": "0.png", "caption": "bb"}\n')
    seen.append(versions(opened(**found)))
    seen.append(versions(opened(**found, columns={"caption": "text"})))
    assert all(one != other for number, one in enumerate(seen) for other in seen[number + 1 :])


def test_a_folder_and_a_pattern_are_several_files_of_rows(write_source: WriteSource) -> None:
    source = write_source([{"image": "0.png", "caption": "a"}], 1)
    folder = Path(source["path"]).parent
    (folder / "more.jsonl").write_text('{"image": "0.png", "caption": "b"}\n')
    (folder / "notes.txt").write_text("no rows")
    for path in (folder, folder / "*.jsonl"):
        several = opened(**{**source, "path": str(path)})
        assert [file.name for file in several.files()] == ["lines.jsonl", "more.jsonl"]
        assert [row.targets for row in good_rows(several)] == [("a",), ("b",)]
    for nothing in (folder / "images", folder / "*.json"):
        with pytest.raises(ConfigError, match="no file of this kind"):
            opened(**{**source, "path": str(nothing)}).listing()
