"""Hugging Face Parquet: rows without images first, images when asked for, nothing whole in memory."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import all_rows, bad_rows, fault_of, good_rows, opened, versions

from infra.errors import DataError

Write = Callable[..., dict[str, Any]]


@pytest.fixture
def parquet(tmp_path: Path) -> Write:
    def write(table: pa.Table, name: str = "train-0.parquet", **more: Any) -> dict[str, Any]:
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "data" / name, **more)
        return {"kind": "hf_parquet", "path": str(tmp_path / "data")}

    return write


def structs(images: list[bytes | None]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": image, "path": "/etc/passwd"} for image in images], kind)


@pytest.mark.parametrize("make", [structs, lambda images: pa.array(images, pa.binary()), pa.array])
def test_images_are_structs_or_bytes(make: Any, parquet: Write, make_picture: Callable[[int], bytes]) -> None:
    pictures = [make_picture(number) for number in range(40)]
    table = pa.table({"image": make(pictures), "caption": [str(number) for number in range(40)]})
    rows = good_rows(opened(**parquet(table, row_group_size=7)))
    assert [row.targets for row in rows] == [(str(number),) for number in range(40)]
    assert [row.image.read() for row in rows] == pictures
    assert [row.image.read() for row in reversed(rows)] == pictures[::-1]
    assert len({row.image.uri for row in rows}) == 40


def test_images_nobody_asks_for_are_not_read(parquet: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the columns and row groups that are asked for. Shown to fail by reading all columns of a record."""
    pictures: list[bytes | None] = [bytes([number]) * 1000 for number in range(40)]
    source = parquet(pa.table({"image": structs(pictures), "label": [1] * 40}), row_group_size=10)
    asked: list[tuple[Any, Any]] = []
    real = pq.ParquetFile.iter_batches

    def note(self: pq.ParquetFile, *args: Any, **more: Any) -> Any:
        asked.append((more["columns"], more.get("row_groups")))
        return real(self, *args, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    rows = good_rows(opened(**source))
    assert asked == [(["label"], None)]
    del asked[:]
    assert [rows[row].image.read() for row in (3, 5, 25)] == [pictures[3], pictures[5], pictures[25]]
    assert asked == [(["image.bytes"], [0]), (["image.bytes"], [2])]


def test_reading_holds_a_batch_of_images_and_no_file(parquet: Write) -> None:
    """Less than three batches (8 MB each) of Arrow's and Python's memory for a file of 64 MB in one row group.
    Shown to fail (72 MB) without `pre_buffer=False` and without `buffer_size`, which fetch the column whole."""
    random = Random(0)
    pictures: list[bytes | None] = [random.randbytes(2**19) for _ in range(128)]
    table = pa.table({"image": structs(pictures), "label": [1] * 128})
    rows = good_rows(opened(**parquet(table, compression="none", write_batch_size=4)))
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    tracemalloc.start()
    for row, picture in zip(rows, pictures, strict=True):
        assert row.image.read() == picture
        most = max(most, pool.bytes_allocated() - before + tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert most < 24 * 2**20


def test_numbers_of_a_class_become_their_names(parquet: Write) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "gone": {"names": [], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": structs([b"a", b"b", b"c"]), "label": [1, 0, -1]}).replace_schema_metadata(metadata)
    assert [row.label for row in good_rows(opened(**parquet(table)))] == ["dog", "cat", "-1"]


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": 3}}}'])
def test_metadata_of_another_writer_is_ignored(metadata: bytes, parquet: Write) -> None:
    table = pa.table({"image": structs([b"a"]), "label": [1]}).replace_schema_metadata({b"huggingface": metadata})
    assert [row.label for row in good_rows(opened(**parquet(table)))] == ["1"]


def test_columns_are_mapped_and_lists_are_texts(parquet: Write) -> None:
    table = pa.table({"img": structs([b"a"]), "texts": [["one", "two"]], "wrong": [["three"]], "id": [5]})
    columns = {"image": "img", "caption": "texts", "negatives": "wrong", "attributes": "id"}
    (row,) = good_rows(opened(**parquet(table), columns=columns))
    assert (row.targets, row.negatives, row.attributes) == (("one", "two"), ("three",), {"id": "5"})


def test_a_column_that_the_recipe_names_must_be_there(parquet: Write) -> None:
    source = parquet(pa.table({"image": structs([b"a"]), "label": [1]}))
    with pytest.raises(DataError, match="expected text too"):
        all_rows(opened(**source, columns={"caption": "text"}))
    with pytest.raises(DataError, match="expected img too"):
        all_rows(opened(**source, columns={"image": "img"}))


def test_a_row_without_bytes_is_a_missing_file_whatever_its_path_says(parquet: Write) -> None:
    source = parquet(pa.table({"image": structs([None, b"b"]), "label": ["x", "y"]}))
    first, second = good_rows(opened(**source))
    assert fault_of(first) == "missing_file"
    assert second.image.read() == b"b"
    null = pa.array([None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    (row,) = good_rows(opened(**parquet(pa.table({"image": null, "label": ["x"]}))))
    assert fault_of(row) == "missing_file"


def test_an_image_of_another_type_is_one_sentence(parquet: Write) -> None:
    (row,) = good_rows(opened(**parquet(pa.table({"image": [3], "label": ["x"]}))))
    with pytest.raises(DataError, match="one column of images"):
        row.image.read()


def test_rows_that_make_no_example_are_bad_rows(parquet: Write) -> None:
    table = pa.table({"image": structs([b"a"] * 4), "numbers": [[1.0], [float("nan")], None, [2.0]]})
    assert [bad.row for bad in bad_rows(opened(**parquet(table)))] == [1]


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_an_error(keep: int, parquet: Write) -> None:
    source = parquet(pa.table({"image": structs([b"a" * 1000]), "label": [1]}))
    path = Path(source["path"]) / "train-0.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train-0\.parquet"):
        all_rows(opened(**source))


def test_a_page_that_is_damaged_is_an_error(parquet: Write) -> None:
    table = pa.table({"image": structs([b"a" * 1000]), "caption": ["some text " * 100]})
    source = parquet(table, compression="zstd", write_page_checksum=True, use_dictionary=False)
    path = Path(source["path"]) / "train-0.parquet"
    clean = path.read_bytes()
    place = pq.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset
    path.write_bytes(clean[: place + 25] + bytes([clean[place + 25] ^ 0xFF] * 20) + clean[place + 45 :])
    with pytest.raises(DataError):
        all_rows(opened(**source))


def test_shards_are_files_of_their_own(parquet: Write) -> None:
    table = pa.table({"image": structs([b"a"]), "label": [1]})
    source = parquet(table)
    before = versions(opened(**source))
    parquet(table, "train-1.parquet")
    parquet(table, "val-0.parquet")
    pattern = {**source, "path": source["path"] + "/train-*.parquet"}
    assert versions(opened(**pattern))["train-0.parquet"] == before["train-0.parquet"]
    assert list(versions(opened(**pattern))) == ["train-0.parquet", "train-1.parquet"]
    assert len(versions(opened(**source))) == 3
