"""Parquet as Hugging Face datasets write it: a column of images, as structs (bytes, path) or bytes, and annotations."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from data_prep.sources.archives import MAX_MEMBER_BYTES, too_large
from data_prep.sources.base import BadRow, FileFacts, ImageRef, RowFault, SourceOptions, SourceRow
from data_prep.sources.files import covering, not_of_this_kind, own_version, row_files
from data_prep.sources.records import BAD_RECORD, Columns, Split, Task, row_of
from infra.errors import FrostlineError
from infra.places import open_place

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SUFFIXES = (".parquet",)
IMAGES_PER_BATCH = 16
RECORDS_PER_BATCH = 256
EXPECTED = "a whole Parquet file with one column of images (bytes, or structs with bytes)"


class HfParquetConfig(SourceOptions):
    kind: Literal["hf_parquet"]
    path: str
    """A file, a folder, or names with a `*`; `hf://datasets/org/name@commit/data/train-*.parquet` for example."""
    columns: Columns = Columns()
    task: Task | None = None
    """Default: what the record holds."""
    split: Split | None = None
    """Of the records that have none of their own."""


class HfParquet:
    """Annotations are read in batches, images only when they are asked for, and then their row group only."""

    def __init__(self, config: HfParquetConfig) -> None:
        self.config = config

    def listing(self) -> list[FileFacts]:
        return row_files(self.config.path, SUFFIXES)

    def files(self) -> list[FileFacts]:
        return covering(self.listing(), self.config)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        columns, config = self.config.columns, self.config
        records = records_of(file, columns)
        images = _ImageColumn(file, columns.image)
        for row, record in enumerate(records):
            name = f"{file.name}:{row}"
            try:
                image = ImageRef(f"{file.uri}#{row}", name, own_version(file), partial(images.read, row))
                yield row_of(row, record, image, columns, config.split, config.task)
            except BAD_RECORD as error:
                yield BadRow(row, name, "unreadable_row", f"{type(error).__name__}: {error}")


def records_of(file: FileFacts, columns: Columns, with_image: bool = False) -> Iterator[dict[str, Any]]:
    """Every record, class numbers as names. Raises DataError where the file is not Parquet."""
    parquet = _open(file)
    names = parquet.schema_arrow.names
    columns.check(names, file.uri)
    labels = _class_names(parquet)
    wanted = [name for name in names if with_image or name != columns.image]
    try:
        for batch in parquet.iter_batches(RECORDS_PER_BATCH, columns=wanted):
            for record in batch.to_pylist():
                yield record | {
                    name: known[record[name]]
                    for name, known in labels.items()
                    if isinstance(record[name], int) and 0 <= record[name] < len(known)
                }
    except (ValueError, OSError) as error:
        raise not_of_this_kind(file, error, EXPECTED) from error


class _ImageColumn:
    """The images of one file by row: read forward, batch by batch, and from its start when asked for an earlier one.
    Row groups nobody asks for are not read."""

    def __init__(self, file: FileFacts, column: str) -> None:
        self._file = file
        self._column = column
        self._lock = threading.Lock()
        self._parquet: pq.ParquetFile | None = None
        self._group = range(0)
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._held = range(0)

    def read(self, row: int) -> bytes:
        with self._lock:
            try:
                while row not in self._held:
                    self._advance(row)
                value = self._batch.column(0)[row - self._held.start]
            except (ValueError, OSError) as error:
                raise not_of_this_kind(self._file, error, EXPECTED) from error
        if hasattr(value, "keys"):  # a struct
            value = value["bytes"]
        name = f"{self._file.name}:{row}"
        if not value.is_valid:
            raise RowFault("missing_file", f"{name}: no bytes in the column {self._column}")
        size_bytes = value.as_buffer().size
        if size_bytes > MAX_MEMBER_BYTES:
            raise too_large(name, size_bytes)
        return bytes(value.as_py())

    def _advance(self, row: int) -> None:
        """Hold the next batch of the row's group."""
        if row not in self._group or row < self._held.start:
            self._enter_group(row)
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(f"row {row} is not where the file says it is")
        self._batch = batch
        self._held = range(self._held.stop, self._held.stop + batch.num_rows)

    def _enter_group(self, row: int) -> None:
        import pyarrow as pa

        self._parquet = parquet = self._parquet or _open(self._file)
        start = 0
        for number in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(number).num_rows
            if row < stop:
                break
            start = stop
        kind, column = parquet.schema_arrow.field(self._column).type, self._column
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, column = kind.field("bytes").type, f"{column}.bytes"
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(f"{self._column} is of type {kind}")
        self._group = range(start, stop)
        self._batches = parquet.iter_batches(IMAGES_PER_BATCH, row_groups=[number], columns=[column])
        self._held = range(start, start)


def _open(file: FileFacts) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    try:
        # Otherwise a row group's column is fetched whole, with all its images.
        return pq.ParquetFile(open_place(file.uri).open(), buffer_size=2**20, pre_buffer=False)
    except FrostlineError:
        raise
    except (ValueError, OSError) as error:
        raise not_of_this_kind(file, error, EXPECTED) from error


def _class_names(parquet: pq.ParquetFile) -> dict[str, list[str]]:
    """Names of the numbers of each ClassLabel column, which Hugging Face writes into the schema's metadata."""
    try:
        features = json.loads((parquet.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel" and name in parquet.schema_arrow.names
        }
    except BAD_RECORD:  # metadata of another writer
        return {}
