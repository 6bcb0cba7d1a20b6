"""JSON Lines: one captioned image, question, label or list of numbers per line."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from data_prep.sources.base import BadRow, FileFacts, SourceOptions, SourceRow
from data_prep.sources.files import MAX_LINE_BYTES, covering, lines_of, row_files
from data_prep.sources.image_files import BesideImages, open_images
from data_prep.sources.records import BAD_RECORD, Columns, Split, Task, row_of
from infra.places import open_place

SUFFIXES = (".jsonl", ".ndjson")


class JsonlConfig(SourceOptions):
    kind: Literal["jsonl"]
    path: str
    """A file, a folder, or names with a `*`. Lines like {"image": "a.jpg", "captions": ["…"]} or
    {"image": "a.jpg", "question": "…", "answers": ["…"]}; see `columns` for the rest."""
    images: str
    """A folder, or a `.tar` or `.zip` archive."""
    columns: Columns = Columns()
    task: Task | None = None
    """Default: what the line holds."""
    split: Split | None = None
    """Of the lines that have none of their own."""


class Jsonl(BesideImages):
    """Empty lines are no rows."""

    def __init__(self, config: JsonlConfig) -> None:
        self.config = config
        self._images = open_images(config.images)

    def listing(self) -> list[FileFacts]:
        return [*row_files(self.config.path, SUFFIXES), *self._images.listing()]

    def files(self) -> list[FileFacts]:
        return covering(row_files(self.config.path, SUFFIXES), self.config, self._images)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        for row, number, found in json_lines(file):
            if isinstance(found, BadRow):
                yield found
                continue
            try:
                image = self._images.ref(found[self.config.columns.image])
                yield row_of(row, found, image, self.config.columns, self.config.split, self.config.task)
            except BAD_RECORD as error:
                yield bad_line(file, row, number, error)


def json_lines(file: FileFacts) -> Iterator[tuple[int, int, dict[str, Any] | BadRow]]:
    """(row, line number from 1, the object on the line) of every line that is not empty."""
    row = -1
    with open_place(file.uri).open() as opened:
        for number, line in enumerate(lines_of(opened), start=1):
            if not line.strip():
                continue
            row += 1
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
                found = json.loads(line.decode("utf-8-sig"))
                if not isinstance(found, dict):
                    raise TypeError(f"a {type(found).__name__}, no object")
                yield row, number, found
            except BAD_RECORD as error:
                yield row, number, bad_line(file, row, number, error)


def bad_line(file: FileFacts, row: int, number: int, error: Exception) -> BadRow:
    expected = "an image with caption(s), a question and answer(s), numbers or a label"
    return BadRow(
        row, f"{file.name}:{number}", "unreadable_row", f"{type(error).__name__}: {error}; expected {expected}"
    )
