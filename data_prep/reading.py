"""Source rows that no earlier output holds, with their images read where nobody has read them yet."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_prep.keys import file_key, image_key, row_key
from data_prep.shard_writer import NewRow, problem_of
from data_prep.sources import (
    BadRow,
    FetchesAhead,
    FileFacts,
    RowFault,
    Source,
    SourceConfig,
    SourceRow,
    open_source,
)
from infra.digests import digest_bytes
from infra.disk import PASSING

if TYPE_CHECKING:
    from data_prep.known_rows import KnownRows

REMEMBERED_IMAGES = 65_536
"""Places whose image id is kept in memory: rows of one image stand close together."""
ROWS_AHEAD = 64
"""Whose images may be on the way at a time."""


@dataclass(frozen=True)
class ReadRow:
    """A new row, and the id of its image or what is wrong with it."""

    new: NewRow
    image_id: str = ""
    fault: RowFault | None = None


@dataclass(frozen=True)
class RowFile:
    """One file that holds rows, and the source that reads it."""

    config: SourceConfig
    source: Source
    file: FileFacts
    key: bytes


def row_files(configs: Sequence[SourceConfig]) -> list[RowFile]:
    """The files of all sources, in order. Lists, but reads none."""
    found: list[RowFile] = []
    times: Counter[bytes] = Counter()
    for config in configs:
        source = open_source(config)
        for file in source.files():
            same = file_key(config, file, 0)
            found.append(RowFile(config, source, file, file_key(config, file, times[same])))
            times[same] += 1
    return found


def read_rows(
    files: Sequence[RowFile], known: KnownRows, reader: ImageReader
) -> Iterator[tuple[ReadRow, bytes | None]]:
    """Rows of these files that `known` does not hold, as `reader` gives them; those it holds are claimed for their
    file."""
    for file in files:
        rows = _new_rows(file, known)
        if isinstance(file.source, FetchesAhead):
            rows = _announced(rows, file.source, reader)
        yield from map(reader.read, rows)


def _new_rows(file: RowFile, known: KnownRows) -> Iterator[NewRow]:
    label = file.config.name or file.config.kind
    for row in file.source.rows(file.file):
        key = row_key(row, label, file.config.weight)
        if known.claim_row(key, file.key):
            continue
        new = NewRow(row, label, file.config.weight, file.key, key)
        yield new if isinstance(row, BadRow) else replace(new, image_key=image_key(row.image))


def _announced(rows: Iterator[NewRow], source: FetchesAhead, reader: ImageReader) -> Iterator[NewRow]:
    """The same rows, some of them held back: their images are on the way by the time they are read."""
    held: deque[NewRow] = deque()
    on_the_way: Counter[bytes] = Counter()
    for new in rows:
        if isinstance(new.row, SourceRow) and not on_the_way[new.image_key] and reader.will_read(new):
            source.fetch_ahead([new.row.image])
        on_the_way[new.image_key] += 1
        held.append(new)
        if len(held) > ROWS_AHEAD:
            first = held.popleft()
            yield first
            on_the_way[first.image_key] -= 1
            if not on_the_way[first.image_key]:
                del on_the_way[first.image_key]
    yield from held


class ImageReader:
    """Reads the image of each new row at most once, whoever refers to it."""

    def __init__(self, known: KnownRows, forgotten: frozenset[str]) -> None:
        self._known = known
        self._forgotten = forgotten
        self._recent: OrderedDict[bytes, str] = OrderedDict()
        self._handed_out: set[bytes] = set()

    def read(self, new: NewRow) -> tuple[ReadRow, bytes | None]:
        """The row with its image's id; and the bytes where they have to be decoded and stored, else None."""
        if isinstance(new.row, BadRow):
            return ReadRow(new, fault=RowFault(new.row.reason, new.row.message)), None
        if (problem := problem_of(new.row)) is not None:
            return ReadRow(new, fault=problem), None
        image_id = self._image_id_at(new)
        data: bytes | None = None
        if image_id is None or not (self._is_stored(image_id) or image_id in self._forgotten):
            try:
                data = new.row.image.read()
            except RowFault as fault:
                return ReadRow(new, fault=fault), None
            except OSError as error:
                message = f"{new.row.image.name}: {error.strerror or error}"
                passing = error.errno in PASSING
                reason = "read_failed" if passing else "missing_file"
                return ReadRow(new, fault=RowFault(reason, message, passing)), None
            image_id = digest_bytes(data)
            self._remember(new.image_key, image_id)
        if image_id in self._forgotten:
            return ReadRow(new, fault=RowFault("forgotten", "this image was to be forgotten")), None
        if data is None or self._is_stored(image_id):
            return ReadRow(new, image_id), None
        self._handed_out.add(bytes.fromhex(image_id))
        return ReadRow(new, image_id), data

    def will_read(self, new: NewRow) -> bool:
        """Whether `read` would read the image of this row now."""
        return isinstance(new.row, SourceRow) and problem_of(new.row) is None and self._image_id_at(new) is None

    def _image_id_at(self, new: NewRow) -> str | None:
        return self._known.image_id_at(new.image_key) or self._recent.get(new.image_key)

    def _is_stored(self, image_id: str) -> bool:
        return bytes.fromhex(image_id) in self._handed_out or self._known.holds_image(image_id)

    def _remember(self, key: bytes, image_id: str) -> None:
        self._recent[key] = image_id
        if len(self._recent) > REMEMBERED_IMAGES:
            self._recent.popitem(last=False)
