"""A shard of the dataset: up to four parts that belong together, and how parts are read column by column."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.image_index import digests_of
from infra.digests import digest_json
from infra.outputs import Attempt, Part
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

STEP = "ingest"
KINDS = ("images", "image_index", "examples", "quarantine")
ROW_KINDS = ("examples", "quarantine")
"""The kinds whose rows are source rows: their sum is `rows in`."""


@dataclass(frozen=True)
class Shard:
    """Parts by kind. Its name is unique in its dataset, so that other parts can refer to its rows."""

    name: str
    parts: dict[str, Part]

    def num_rows(self, kind: str) -> int:
        return self.parts[kind].num_rows if kind in self.parts else 0


def shards_of(parts: Iterable[Part]) -> list[Shard]:
    """The shards that these parts make up, in their order."""
    found: dict[str, dict[str, Part]] = {}
    for part in parts:
        if part.kind in KINDS:
            parts_of_shard = found.setdefault(str(part.facts["shard"]), {})
            assert part.kind not in parts_of_shard, f"two {part.kind} parts in one shard"
            parts_of_shard[part.kind] = part
    return [Shard(name, by_kind) for name, by_kind in found.items()]


def upload_shard(files: Iterable[tuple[str, Path, int]], attempt: Attempt, taken: Collection[str]) -> Shard:
    """Upload (kind, closed file, rows) as one shard."""
    uploaded = {kind: attempt.add_part(path, kind, num_rows) for kind, path, num_rows in files}
    return name_shard(uploaded, taken)


def name_shard(parts: dict[str, Part], taken: Collection[str]) -> Shard:
    """These parts as a shard: the facts of each say which, and of which images an index is.

    The name is made of their digests, and of a number where a shard of equal parts has it already: the same rows may
    come twice."""
    made_of = digest_json([[kind, parts[kind].digest] for kind in KINDS if kind in parts])[:16]
    name = next(name for name in _numbered(made_of) if name not in taken)
    facts: dict[str, Any] = {"shard": name}
    images = {"images": parts["images"].digest} if "images" in parts else {}
    named = {
        kind: part.model_copy(update={"facts": facts | (images if kind == "image_index" else {})})
        for kind, part in parts.items()
    }
    return Shard(name, named)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def read_columns(part: Part, cache: PartCache, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of one verified part of the ingest step."""
    import pyarrow.parquet as pq

    return pq.read_table(cache.path(STEP, part), columns=columns)


def digests_in(column: Any) -> NDArray[np.bytes_]:
    """S32[rows] of a column without nulls that holds digests: 32 bytes each, or 64 hexadecimal digits.

    Fixed-width digests take a quarter of the memory of Python strings, and numpy sorts and finds them."""
    import numpy as np
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(array):
        return np.empty(0, dtype="S32")
    if pa.types.is_string(array.type):
        return digests_of(array.to_pylist())
    return np.frombuffer(b"".join(array.to_pylist()), dtype="S32")


def hex_of(digests: NDArray[np.bytes_]) -> list[str]:
    """The digests as they stand in `image_id` columns."""
    joined = digests.tobytes().hex()
    return [joined[start : start + 64] for start in range(0, len(joined), 64)]


def concatenated(arrays: Iterator[NDArray[Any]] | Sequence[NDArray[Any]], dtype: str) -> NDArray[Any]:
    import numpy as np

    found = list(arrays)
    return np.concatenate(found) if found else np.empty(0, dtype=dtype)
