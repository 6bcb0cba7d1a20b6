"""What an earlier output and an unfinished attempt have read already, so that it is not read again.

Rows are addressed by their position over all shards: first all `examples` rows of the first shard, then its
`quarantine` rows, then those of the second shard, and so on. N is their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.image_index import ImageIndex, digests_of
from data_prep.shards import ROW_KINDS, Shard, concatenated, digests_in, hex_of, read_columns
from infra.outputs import Part
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOBODY = -1


@dataclass(frozen=True, order=True)
class RowRange:
    """Rows `start` to `stop` of one part of a shard came from one source file."""

    file_key: bytes
    shard: str
    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Segment:
    """The rows of one part among all rows."""

    shard: str
    kind: str
    offset: int
    num_rows: int


class KnownRows:
    """Rows are claimed by the file that holds them now; what nobody claims has been withdrawn."""

    def __init__(self, shards: Sequence[Shard], ranges: Sequence[RowRange], cache: PartCache, num_settled: int) -> None:
        """`ranges` say which file each row of an earlier output came from. Passing failures in the first `num_settled`
        shards are not tried again."""
        import numpy as np

        self.shards = list(shards)
        self._segments: list[_Segment] = []
        keys: list[NDArray[np.bytes_]] = []
        passing: list[NDArray[np.bool_]] = []
        image_keys: list[NDArray[np.bytes_]] = []
        image_ids: list[NDArray[np.bytes_]] = []
        stored: list[NDArray[np.bytes_]] = []
        offset = 0
        for number, shard in enumerate(self.shards):
            for kind in ROW_KINDS:
                part = shard.parts.get(kind)
                if part is None:
                    continue
                columns = ["row_key", "image_key", "image_id"] if kind == "examples" else ["row_key", "passing"]
                table = read_columns(part, cache, columns)
                keys.append(digests_in(table.column("row_key")))
                if kind == "examples":
                    image_keys.append(digests_in(table.column("image_key")))
                    image_ids.append(digests_in(table.column("image_id")))
                    passing.append(np.zeros(len(table), dtype=bool))
                else:
                    again = number >= num_settled
                    passing.append(table.column("passing").to_numpy() & again)
                self._segments.append(_Segment(shard.name, kind, offset, len(table)))
                offset += len(table)
            if "image_index" in shard.parts:
                stored.append(digests_in(read_columns(shard.parts["image_index"], cache, ["image_id"]).column(0)))
        self._row_keys = _Sorted(concatenated(keys, "S32"))
        self._passing_N = concatenated(passing, "bool")
        self._image_ids = concatenated(image_ids, "S32")
        self._image_at = ImageIndex(image_keys, [np.arange(len(self._image_ids))])
        self._stored = ImageIndex(stored, [np.arange(sum(map(len, stored)))])
        self._claimed_by_N = np.full(offset, NOBODY, dtype=np.int32)
        self._files: list[bytes] = []
        self._ranges_of: dict[bytes, list[slice]] = {}
        where = {(segment.shard, segment.kind): segment.offset for segment in self._segments}
        for found in ranges:
            start = where[found.shard, found.kind]
            rows = slice(start + found.start, start + found.stop)
            self._ranges_of.setdefault(found.file_key, []).append(rows)

    def claim_file(self, file_key: bytes) -> bool:
        """Keep every row of this file as it is. False where the file is not known, or rows of it are to be tried
        again: then it has to be read."""
        rows = self._ranges_of.get(file_key)
        if rows is None or any(self._passing_N[part].any() for part in rows):
            return False
        number = self._number_of(file_key)
        for part in rows:
            self._claimed_by_N[part] = number
        return True

    def claim_all_but(self, image_ids: Collection[str]) -> None:
        """Keep every row that a file is known for, save those that show one of these images."""
        import numpy as np

        for file_key, rows in self._ranges_of.items():
            number = self._number_of(file_key)
            for part in rows:
                self._claimed_by_N[part] = number
        shows = np.isin(self._image_ids, digests_of(sorted(image_ids)))
        self._claimed_by_N[self._example_rows()[shows]] = NOBODY

    def claim_row(self, row_key: bytes, file_key: bytes) -> bool:
        """Keep one row that nobody has claimed yet. False where there is none like it."""
        for row in self._row_keys.places(row_key) if len(self._claimed_by_N) else ():
            if self._claimed_by_N[row] == NOBODY and not self._passing_N[row]:
                self._claimed_by_N[row] = self._number_of(file_key)
                return True
        return False

    def image_id_at(self, image_key: bytes) -> str | None:
        """The id of the image that was read there, or None."""
        if not len(self._image_ids):
            return None
        known, place = self._image_at.find(_one(image_key))
        return hex_of(self._image_ids[place])[0] if known[0] else None

    def holds_image(self, image_id: str) -> bool:
        return bool(self._stored.find(_one(bytes.fromhex(image_id)))[0][0])

    @property
    def num_claimed(self) -> int:
        return int((self._claimed_by_N != NOBODY).sum())

    @property
    def all_claimed(self) -> bool:
        return self.num_claimed == len(self._claimed_by_N)

    def claimed_image_ids(self) -> NDArray[np.bytes_]:
        """Of the example rows that somebody has claimed."""
        found: NDArray[np.bytes_] = self._image_ids[self._claimed_by_N[self._example_rows()] != NOBODY]
        return found

    def kept(self, shard: Shard, kind: str) -> NDArray[np.bool_]:
        """bool[rows]: which rows of this part somebody has claimed."""
        segment = next(found for found in self._segments if (found.shard, found.kind) == (shard.name, kind))
        claimed: NDArray[np.bool_] = self._claimed_by_N[segment.offset : segment.offset + segment.num_rows] != NOBODY
        return claimed

    def claims(self, renamed: dict[str, str]) -> Iterator[RowRange]:
        """The rows that are kept by the file they belong to now, at their place among the rows that are kept.
        `renamed` says what a shard is called now."""
        import numpy as np

        for segment in self._segments:
            claimed = self._claimed_by_N[segment.offset : segment.offset + segment.num_rows]
            kept = claimed[claimed != NOBODY]
            edges = [0, *(np.flatnonzero(np.diff(kept)) + 1).tolist(), len(kept)]
            for start, stop in itertools.pairwise(edges):
                if stop > start:
                    name = renamed.get(segment.shard, segment.shard)
                    yield RowRange(self._files[kept[start]], name, segment.kind, start, stop)

    def _example_rows(self) -> NDArray[np.int64]:
        """Where the rows that show an image are among all rows."""
        import numpy as np

        examples = [segment for segment in self._segments if segment.kind == "examples"]
        places = [np.arange(segment.offset, segment.offset + segment.num_rows) for segment in examples]
        return concatenated(places, "int64")

    def _number_of(self, file_key: bytes) -> int:
        if not self._files or self._files[-1] != file_key:
            self._files.append(file_key)
        return len(self._files) - 1


def _one(digest: bytes) -> NDArray[np.bytes_]:
    import numpy as np

    return np.frombuffer(digest, dtype="S32")


class _Sorted:
    """Finds every place of a digest among many, in memory proportional to the digests."""

    def __init__(self, digests: NDArray[np.bytes_]) -> None:
        import numpy as np

        self._order = np.argsort(digests, kind="stable")
        self._sorted = digests[self._order]

    def places(self, digest: bytes) -> Iterator[int]:
        import numpy as np

        wanted = _one(digest)
        place = int(np.searchsorted(self._sorted, wanted)[0])
        while place < len(self._sorted) and self._sorted[place] == wanted[0]:
            yield int(self._order[place])
            place += 1


def read_ranges(parts: Sequence[Part], cache: PartCache) -> list[RowRange]:
    """What the `files` parts of an output say."""
    found: list[RowRange] = []
    for part in parts:
        found += [RowRange(**row) for row in read_columns(part, cache).to_pylist()]
    return found


def merged(ranges: Sequence[RowRange]) -> list[RowRange]:
    """In one order, with neighbours joined: the same rows give the same ranges, however they were found."""
    found: list[RowRange] = []
    for one in sorted(ranges):
        last = found[-1] if found else None
        if last and (last.file_key, last.shard, last.kind, last.stop) == (
            one.file_key,
            one.shard,
            one.kind,
            one.start,
        ):
            found[-1] = RowRange(last.file_key, last.shard, last.kind, last.start, one.stop)
        else:
            found.append(one)
    return found
