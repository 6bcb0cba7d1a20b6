"""Lists of URLs with captions, questions or labels: JSON Lines, CSV, Parquet, or lines of a URL and a caption."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

from data_prep.sources.base import BadRow, FileFacts, ImageRef, SourceOptions, SourceRow
from data_prep.sources.csv_table import csv_records
from data_prep.sources.fetching import Fetcher, FetchPace, FetchRules
from data_prep.sources.files import MAX_LINE_BYTES, covering, lines_of, row_files
from data_prep.sources.hf_parquet import records_of
from data_prep.sources.jsonl import json_lines
from data_prep.sources.records import BAD_RECORD, Columns, Split, Task, row_of
from infra.digests import digest_json
from infra.errors import ConfigError
from infra.places import open_place

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")


class UrlListConfig(SourceOptions):
    kind: Literal["url_list"]
    path: str
    """A file, a folder, or names with a `*`; the suffix says what it holds."""
    columns: Columns = Columns(image="url")
    """Of `.txt` lines, the URL is the image and what follows the first blank is the caption."""
    task: Task | None = None
    split: Split | None = None
    rules: FetchRules = FetchRules()
    pace: FetchPace = FetchPace()


class UrlList:
    """Images are fetched when they are read, or ahead of that for those who say what they will read."""

    def __init__(self, config: UrlListConfig) -> None:
        self.config = config

    def listing(self) -> list[FileFacts]:
        return row_files(self.config.path, SUFFIXES)

    def files(self) -> list[FileFacts]:
        return covering(self.listing(), self.config)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        config = self.config
        for row, (number, record) in enumerate(_records(file, config.columns)):
            if isinstance(record, BadRow):
                yield record
                continue
            try:
                url = str(record[config.columns.image] or "").strip()
                image = ImageRef(url, url, self._version, partial(self._read, url))
                yield row_of(row, record, image, config.columns, config.split, config.task)
            except BAD_RECORD as error:
                yield BadRow(row, f"{file.name}:{number}", "unreadable_row", f"{type(error).__name__}: {error}")

    def fetch_ahead(self, images: Sequence[ImageRef]) -> None:
        self._fetcher.fetch_ahead(image.uri for image in images)

    def _read(self, url: str) -> bytes:
        return self._fetcher.read(url)

    @cached_property
    def _version(self) -> str:
        """Of every image: once fetched, it is kept and not asked for again, unless by other rules."""
        return digest_json(self.config.rules.model_dump(mode="json"))[:16]

    @cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self.config.rules, self.config.pace)


def _records(file: FileFacts, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """(where a person looks for it, the record) of every row of the file."""
    suffix = file.uri[file.uri.rfind(".") :].lower()
    if suffix in (".jsonl", ".ndjson"):
        yield from ((number, record) for _, number, record in json_lines(file))
    elif suffix in DELIMITERS:
        yield from ((number, record) for _, number, record in csv_records(file, DELIMITERS[suffix], columns))
    elif suffix == ".parquet":
        yield from enumerate(records_of(file, columns, with_image=True))
    elif suffix == ".txt":
        yield from _text_records(file, columns)
    else:
        raise ConfigError(f"{file.uri}: the suffix {suffix!r} was found; expected one of {', '.join(SUFFIXES)}.")


def _text_records(file: FileFacts, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    row = 0
    with open_place(file.uri).open() as opened:
        for number, line in enumerate(lines_of(opened), start=1):
            if not line.strip():
                continue
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
                url, caption = line.decode("utf-8-sig").strip().split(maxsplit=1)
                yield number, {columns.image: url, columns.caption[-1]: caption}
            except ValueError as error:
                message = f"{error}; expected a URL and a caption"
                yield number, BadRow(row, f"{file.name}:{number}", "unreadable_row", message)
            row += 1
