"""Shards → the draft of a dataset: what counts, what is left out, digests and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.keeping import files_table, upload_tables
from data_prep.known_rows import RowRange
from data_prep.merge import (
    COUNTS,
    DUPLICATE,
    check_images,
    dataset_digest,
    excluded_table,
    judge,
    masked_table,
    num_leaked,
    read_rows,
    split_digest,
)
from data_prep.reencode import REENCODE_VERSION
from data_prep.shards import ROW_KINDS, Shard
from data_prep.statistics import num_passing, quarantined_by_reason, statistics
from infra.digests import digest_json
from infra.outputs import Attempt, Draft
from infra.part_cache import PartCache


@dataclass(frozen=True)
class DatasetRules:
    """What decides the dataset besides its rows."""

    near_duplicate_distance: int
    reencode_digest: str
    """Empty where the source bytes are stored."""


def rules_in(config: Mapping[str, Any]) -> DatasetRules:
    """Of an ingest configuration as requests and manifests hold it."""
    reencode = config["reencode"]
    digest = digest_json([reencode, REENCODE_VERSION]) if reencode else ""
    return DatasetRules(config["near_duplicate_distance"], digest)


def draft_of(
    shards: Sequence[Shard], ranges: Sequence[RowRange], rules: DatasetRules, attempt: Attempt, cache: PartCache
) -> Draft:
    """The dataset that these shards make up. rows_in = rows_out + duplicates + quarantined, always.

    Raises DataError where a row shows an image that no shard holds: one that was lost and could not be read again."""
    rows = read_rows(shards, cache)
    check_images(rows, shards, cache)
    verdict_N = judge(rows)
    excluded = excluded_table(rows, verdict_N, shards, rules.near_duplicate_distance, cache)
    counts = {
        "rows_in": sum(shard.num_rows(kind) for shard in shards for kind in ROW_KINDS),
        "rows_out": int((verdict_N == COUNTS).sum()),
        "duplicates": int((verdict_N == DUPLICATE).sum()),
        "quarantined": sum(quarantined_by_reason(shards, verdict_N, cache).values()),
        "images": sum(shard.num_rows("images") for shard in shards),
        "excluded": len(excluded),
        "leaked": num_leaked(rows, verdict_N, excluded, shards, rules.near_duplicate_distance, cache),
        "to_try_again": num_passing(shards, cache),
    }
    assert counts["rows_in"] == counts["rows_out"] + counts["duplicates"] + counts["quarantined"], counts
    tables = {"masked": masked_table(rows, verdict_N), "excluded": excluded, "files": files_table(ranges)}
    return Draft(
        parts=[part for shard in shards for part in shard.parts.values()] + upload_tables(tables, attempt),
        identity={
            "dataset_digest": dataset_digest(rows, verdict_N, excluded, rules.reencode_digest),
            "test_digest": split_digest(rows, verdict_N, "test", rules.reencode_digest),
            **({"reencode_digest": rules.reencode_digest} if rules.reencode_digest else {}),
        },
        counts=counts,
        facts={"statistics": statistics(shards, rows, verdict_N, cache)},
    )
