"""What the rows of all shards together mean: duplicates, conflicts, exclusions and the digest of the dataset.

Each is a function of the set of rows, whatever shards they lie in and in whatever order they came.
Shapes: N example rows, I images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.near_duplicates import nearest_within
from data_prep.schemas import SPLITS
from data_prep.shards import Shard, concatenated, digests_in, hex_of, read_columns
from infra.digests import digest_json
from infra.errors import DataError
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

COUNTS, DUPLICATE, SPLIT_CONFLICT = range(3)
REASONS = {DUPLICATE: "duplicate", SPLIT_CONFLICT: "split_conflict"}
TEST = SPLITS.index("test")


@dataclass(frozen=True)
class Rows:
    """The example rows of all shards."""

    shards: Sequence[str]
    shard_N: NDArray[np.int32]
    row_N: NDArray[np.int64]
    """Position in the shard's `examples` part."""
    example_id_N: NDArray[np.bytes_]
    image_id_N: NDArray[np.bytes_]
    row_digest_N: NDArray[np.bytes_]
    split_N: NDArray[np.int8]


def read_rows(shards: Sequence[Shard], cache: PartCache) -> Rows:
    import numpy as np
    import pyarrow.compute as pc

    with_examples = [shard for shard in shards if "examples" in shard.parts]
    columns = ["example_id", "image_id", "row_digest", "split"]
    tables = [read_columns(shard.parts["examples"], cache, columns) for shard in with_examples]
    splits = [pc.index_in(table.column("split"), value_set=_splits()).to_numpy() for table in tables]
    return Rows(
        shards=[shard.name for shard in with_examples],
        shard_N=concatenated([np.full(len(t), n, dtype=np.int32) for n, t in enumerate(tables)], "int32"),
        row_N=concatenated([np.arange(len(table)) for table in tables], "int64"),
        example_id_N=concatenated([digests_in(table.column("example_id")) for table in tables], "S32"),
        image_id_N=concatenated([digests_in(table.column("image_id")) for table in tables], "S32"),
        row_digest_N=concatenated([digests_in(table.column("row_digest")) for table in tables], "S32"),
        split_N=concatenated([split.astype(np.int8) for split in splits], "int8"),
    )


def _splits() -> pa.Array:
    import pyarrow as pa

    return pa.array(SPLITS)


def judge(rows: Rows) -> NDArray[np.int8]:
    """int8[N]: COUNTS, DUPLICATE or SPLIT_CONFLICT.

    Where an image is claimed for two splits none of its rows counts: whichever split won, growth could move the
    image. Of rows with one example id the one with the smallest digest counts."""
    import numpy as np

    verdict_N = np.full(len(rows.row_N), COUNTS, dtype=np.int8)
    if not len(verdict_N):
        return verdict_N
    images, image_N = np.unique(rows.image_id_N, return_inverse=True)
    claims = np.zeros((len(images), len(SPLITS)), dtype=bool)
    claims[image_N, rows.split_N] = True
    verdict_N[(claims.sum(axis=1) > 1)[image_N]] = SPLIT_CONFLICT
    order = np.lexsort((rows.row_N, rows.shard_N, rows.row_digest_N, rows.example_id_N))
    same = np.zeros(len(order), dtype=bool)
    same[1:] = rows.example_id_N[order][1:] == rows.example_id_N[order][:-1]
    duplicate_N = np.zeros(len(order), dtype=bool)
    duplicate_N[order] = same
    verdict_N[duplicate_N & (verdict_N == COUNTS)] = DUPLICATE
    return verdict_N


def masked_table(rows: Rows, verdict_N: NDArray[np.int8]) -> pa.Table:
    """The rows that do not count, by `masked_schema`."""
    import numpy as np
    import pyarrow as pa

    from data_prep.schemas import masked_schema

    places = np.flatnonzero(verdict_N != COUNTS)
    return pa.table(
        [
            [rows.shards[shard] for shard in rows.shard_N[places]],
            rows.row_N[places],
            hex_of(rows.example_id_N[places]),
            [REASONS[verdict] for verdict in verdict_N[places].tolist()],
        ],
        schema=masked_schema(),
    )


def excluded_table(
    rows: Rows, verdict_N: NDArray[np.int8], shards: Sequence[Shard], distance: int, cache: PartCache
) -> pa.Table:
    """Train and val images within `distance` bits of a test image, by `excluded_schema`, sorted by image."""
    import numpy as np
    import pyarrow as pa

    from data_prep.schemas import excluded_schema

    images_I, split_I, phash_I = _images(rows, verdict_N, shards, cache)
    others, tests = np.flatnonzero(split_I != TEST), np.flatnonzero(split_I == TEST)
    nearest, found = nearest_within(phash_I[others], phash_I[tests], distance)
    near = nearest >= 0
    return pa.table(
        [
            hex_of(images_I[others[near]]),
            [SPLITS[split] for split in split_I[others[near]]],
            hex_of(images_I[tests[nearest[near]]]),
            found[near],
        ],
        schema=excluded_schema(),
    )


def num_leaked(
    rows: Rows,
    verdict_N: NDArray[np.int8],
    excluded: pa.Table,
    shards: Sequence[Shard],
    distance: int,
    cache: PartCache,
) -> int:
    """Train and val images within `distance` bits of a test image that are left when the excluded ones are taken out:
    0, or the exclusion is at fault. Each is compared with each test image, without the index of bands."""
    import numpy as np

    images_I, split_I, phash_I = _images(rows, verdict_N, shards, cache)
    left_I = (split_I != TEST) & ~np.isin(images_I, digests_in(excluded.column("image_id")))
    tests = phash_I[split_I == TEST]
    if distance == 0:
        return int(np.isin(phash_I[left_I], tests).sum())
    return sum(bool((np.bitwise_count(tests ^ other) <= distance).any()) for other in phash_I[left_I])


def _images(
    rows: Rows, verdict_N: NDArray[np.int8], shards: Sequence[Shard], cache: PartCache
) -> tuple[NDArray[np.bytes_], NDArray[np.int8], NDArray[np.uint64]]:
    """Images of rows that count, sorted: ids, splits, perceptual hashes."""
    import numpy as np

    images_I, first_I = np.unique(rows.image_id_N[verdict_N == COUNTS], return_index=True)
    return images_I, rows.split_N[verdict_N == COUNTS][first_I], _phashes(images_I, shards, cache)


def check_images(rows: Rows, shards: Sequence[Shard], cache: PartCache) -> None:
    """Raises DataError where a row shows an image that no shard holds."""
    import numpy as np

    indexes = [shard.parts["image_index"] for shard in shards if "image_index" in shard.parts]
    held = concatenated([digests_in(read_columns(part, cache, ["image_id"]).column(0)) for part in indexes], "S32")
    lost = np.setdiff1d(rows.image_id_N, held)
    if len(lost):
        raise DataError(
            f"{len(lost)} images that rows show are in no shard, the first {hex_of(lost[:1])[0][:12]}…; expected each "
            "to be stored. It was lost and its source could not be read again: start again when the source answers, or "
            "take its rows out of the source."
        )


def _phashes(images_I: NDArray[np.bytes_], shards: Sequence[Shard], cache: PartCache) -> NDArray[np.uint64]:
    """uint64[I], from the index parts of the shards."""
    import numpy as np

    found_I = np.zeros(len(images_I), dtype=np.uint64)
    for shard in shards:
        if "image_index" in shard.parts:
            table = read_columns(shard.parts["image_index"], cache, ["image_id", "phash"])
            ids = digests_in(table.column("image_id"))
            place = np.searchsorted(images_I, ids)
            known = place < len(images_I)
            known[known] = images_I[place[known]] == ids[known]
            hashes = bytes.fromhex("".join(table.column("phash").to_pylist()))
            found_I[place[known]] = np.frombuffer(hashes, dtype=">u8").astype(np.uint64)[known]
    return found_I


def dataset_digest(rows: Rows, verdict_N: NDArray[np.int8], excluded: pa.Table, pixels: str) -> str:
    """sha256 over the sorted digests of the rows that count, then what training leaves out of them, and how the
    pixels were changed (`pixels`, empty where they were not)."""
    hasher = hashlib.sha256(_sorted_bytes(rows.row_digest_N[verdict_N == COUNTS]))
    if len(excluded):
        hasher.update(digest_json(excluded.column("image_id").to_pylist()).encode())
    hasher.update(pixels.encode())
    return hasher.hexdigest()


def split_digest(rows: Rows, verdict_N: NDArray[np.int8], split: str, pixels: str) -> str:
    """The same of one split, without exclusions."""
    chosen = (verdict_N == COUNTS) & (rows.split_N == SPLITS.index(split))
    return hashlib.sha256(_sorted_bytes(rows.row_digest_N[chosen]) + pixels.encode()).hexdigest()


def _sorted_bytes(digests: NDArray[np.bytes_]) -> bytes:
    import numpy as np

    return np.sort(digests).tobytes()
