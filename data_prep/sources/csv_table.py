"""CSV and its kin: a header, then one row per record, with the columns mapped in the recipe."""

import csv
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from data_prep.sources.base import BadRow, FileFacts, SourceOptions, SourceRow
from data_prep.sources.files import MAX_LINE_BYTES, covering, lines_of, not_of_this_kind, row_files
from data_prep.sources.image_files import BesideImages, open_images
from data_prep.sources.records import BAD_RECORD, Columns, Split, Task, row_of
from infra.places import open_place

SUFFIXES = (".csv", ".tsv")


class CsvConfig(SourceOptions):
    kind: Literal["csv"]
    path: str
    """A file, a folder, or names with a `*`."""
    images: str
    """A folder, or a `.tar` or `.zip` archive."""
    columns: Columns = Columns()
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    task: Task | None = None
    """Default: what the record holds."""
    split: Split | None = None
    """Of the records that have none of their own."""


class CsvTable(BesideImages):
    """An empty cell is no value. A file is UTF-8, with or without a byte order mark."""

    def __init__(self, config: CsvConfig) -> None:
        self.config = config
        self._images = open_images(config.images)

    def listing(self) -> list[FileFacts]:
        return [*row_files(self.config.path, SUFFIXES), *self._images.listing()]

    def files(self) -> list[FileFacts]:
        return covering(row_files(self.config.path, SUFFIXES), self.config, self._images)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        config = self.config
        for row, number, record in csv_records(file, config.delimiter, config.columns):
            if isinstance(record, BadRow):
                yield record
                continue
            try:
                image = self._images.ref(record[config.columns.image] or "")
                yield row_of(row, record, image, config.columns, config.split, config.task)
            except BAD_RECORD as error:
                yield _bad(file, row, number, error)


def csv_records(
    file: FileFacts, delimiter: str, columns: Columns
) -> Iterator[tuple[int, int, dict[str, str | None] | BadRow]]:
    """(row, number of its last line from 1, cells by column) of every record. Raises DataError for a bad header."""
    with open_place(file.uri).open() as opened:
        texts = (_line_text(line) for line in lines_of(opened))
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader)]
        except (csv.Error, StopIteration) as error:
            raise not_of_this_kind(file, error, "a table with a header") from error
        if len(set(header)) < len(header):
            raise not_of_this_kind(file, ValueError("a column twice"), "a header that names each column once")
        columns.check(header, file.uri)
        row = 0
        while True:
            try:
                cells = next(reader)
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells under {len(header)} columns")
                record = {name: cell.encode().decode() or None for name, cell in zip(header, cells, strict=True)}
                yield row, reader.line_num, record
            except StopIteration:
                return
            except (csv.Error, *BAD_RECORD) as error:
                yield row, reader.line_num, _bad(file, row, reader.line_num, error)
            row += 1


def _line_text(line: bytes) -> str:
    """Bytes that are no UTF-8 stay recognisable, and make their own row bad only. So does a line that was cut."""
    return line.decode("utf-8", "surrogateescape").removeprefix("\ufeff") if len(line) <= MAX_LINE_BYTES else "\0\n"


def _bad(file: FileFacts, row: int, number: int, error: Exception) -> BadRow:
    return BadRow(row, f"{file.name}:{number}", "unreadable_row", f"{type(error).__name__}: {error}")
