"""CSV: columns mapped in the recipe, each record on its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_rows import all_rows, bad_rows, fault_of, good_rows, opened

from data_prep.sources import SourceRow
from infra.errors import DataError


@pytest.fixture
def table(tmp_path: Path, pictures: Path) -> Callable[[str | bytes], dict[str, Any]]:
    def write(text: str | bytes) -> dict[str, Any]:
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return {"kind": "csv", "path": str(path), "images": str(pictures)}

    return write


Table = Callable[[str | bytes], dict[str, Any]]


def test_questions_with_quotes_commas_and_line_breaks(table: Table, make_picture: Callable[[int], bytes]) -> None:
    rows = good_rows(
        opened(**table('image,question,answer\r\n0.png,"red, or\n""blue""?",red\r\n1.png,where?,here\r\n'))
    )
    assert [(row.task, row.prompt, row.targets) for row in rows] == [
        ("vqa", 'red, or\n"blue"?', ("red",)),
        ("vqa", "where?", ("here",)),
    ]
    assert rows[1].image.read() == make_picture(1)


def test_columns_of_each_task_are_mapped(table: Table) -> None:
    text = "file,c1,c2,x,y,class,part,night\n0.png,a,b,1,2.5,cat,val,yes\n1.png,c,,3,4,dog,test,\n"
    mapped: dict[str, Any] = {"image": "file", "split": "part", "attributes": "night"}
    captions = good_rows(opened(**table(text), columns={**mapped, "caption": ["c1", "c2"]}))
    assert [(row.targets, row.split, row.attributes) for row in captions] == [
        (("a", "b"), "val", {"night": "yes"}),
        (("c",), "test", {}),
    ]
    numbers = good_rows(opened(**table(text), columns={**mapped, "numbers": ["x", "y"]}))
    assert [(row.task, row.numbers) for row in numbers] == [("regress", (1.0, 2.5)), ("regress", (3.0, 4.0))]
    labels = good_rows(opened(**table(text), columns={**mapped, "label": "class"}))
    assert [(row.task, row.label) for row in labels] == [("classify", "cat"), ("classify", "dog")]


def test_a_mark_at_the_start_and_another_delimiter(table: Table) -> None:
    (row,) = good_rows(opened(**table("\ufeffimage\tcaption\n0.png\tein Hund\n"), delimiter="\t"))
    assert row.targets == ("ein Hund",)


def test_a_bad_record_costs_itself_only(table: Table) -> None:
    text = (
        b"image,caption\n0.png,one\n1.png\n1.png,a,b\n1.png,\xff\xfe\n1.png,a\0b\n"
        b'1.png,"a" b\n\n1.png,' + b"x" * 200_000 + b"\n2.png,two\n"
    )
    rows = all_rows(opened(**table(text)))
    assert [row.row for row in rows] == list(range(8))
    assert [(row.row, row.targets) for row in rows if isinstance(row, SourceRow)] == [(0, ("one",)), (7, ("two",))]
    bad = bad_rows(opened(**table(text)))
    assert {row.reason for row in bad} == {"unreadable_row"}
    assert bad[0].name == "table.csv:3"


def test_a_quote_that_never_ends_is_no_silent_loss(table: Table) -> None:
    text = 'image,caption\n0.png,"never\n' + "1.png,a\n" * 20_000
    rows = all_rows(opened(**table(text)))
    assert bad_rows(opened(**table(text)))
    assert len(rows) < 20_001


def test_a_line_that_was_cut_is_a_bad_row(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("files", "csv_table"):
        monkeypatch.setattr(f"data_prep.sources.{module}.MAX_LINE_BYTES", 100)
    rows = all_rows(opened(**table("image,caption\n0.png," + "x" * 950 + "\n1.png,a\n")))
    assert [isinstance(row, SourceRow) for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("text", "columns", "told"),
    [
        ("", {}, "a table with a header"),
        ("file,caption\n0.png,a\n", {}, "expected image too"),
        ("image,caption\n0.png,a\n", {"negatives": "wrong"}, "expected wrong too"),
    ],
)
def test_a_table_without_a_mapped_column_is_one_sentence(
    text: str, columns: dict[str, str], told: str, table: Table
) -> None:
    with pytest.raises(DataError, match=told):
        all_rows(opened(**table(text), columns=columns))


def test_an_empty_image_name_is_a_missing_file(table: Table) -> None:
    (row,) = good_rows(opened(**table("image,caption\n,a\n")))
    assert fault_of(row) == "missing_file"
