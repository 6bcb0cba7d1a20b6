"""The `ingest` step: sources → Parquet parts of images and examples, every row accounted for.

A dataset continues the newest one of its recipe: rows that were read already are taken over with their shards, only
what is new is read, and only shards of which rows were withdrawn are written again.
"""

from collections.abc import Iterator, Sequence

from data_prep.ingest_config import IngestConfig
from data_prep.keeping import files_table, keep_claimed, upload_tables
from data_prep.known_rows import KnownRows, RowRange, merged, read_ranges
from data_prep.merge import (
    COUNTS,
    DUPLICATE,
    dataset_digest,
    excluded_table,
    judge,
    masked_table,
    read_rows,
    split_digest,
)
from data_prep.new_shards import Journal, read_new
from data_prep.shards import ROW_KINDS, STEP, Shard, shards_of
from data_prep.sources import PATH_FIELDS, open_source
from data_prep.sources.base import fingerprint_facts
from data_prep.statistics import first_problem, num_passing, quarantined_by_reason, statistics
from infra import log
from infra.digests import digest_json
from infra.errors import DataError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, read_manifest
from infra.part_cache import PartCache
from infra.store import Store
from infra.workspace import Workspace

VERSION = 2
CONTINUED = {"sources", "images_per_shard", "max_quarantined_fraction", "near_duplicate_distance"}
"""Fields in which a dataset may differ from the one it continues."""
TRIES_AGAIN = "tries_again"
"""The input that names the dataset whose passing failures are tried again."""


def ingest_request(config: IngestConfig, name: str, store: Store) -> OutputRequest:
    """Where files are is left out; names, sizes and versions are in. Raises ConfigError for missing files.

    Where the newest dataset of these very sources has rows to try again, this is a request for another try."""
    listings = [fingerprint_facts(open_source(source).listing()) for source in config.sources]
    decisive = config.model_dump(mode="json", exclude={"sources", "max_quarantined_fraction"})
    decisive["sources"] = [source.model_dump(mode="json", exclude=PATH_FIELDS) for source in config.sources]
    inputs = {"source_listing": digest_json(listings)}
    newest = next(_earlier(store, name), None)
    if newest is not None and newest.config == decisive and inputs.items() <= newest.inputs.items():
        inputs = {**inputs, TRIES_AGAIN: newest.fingerprint} if newest.counts["to_try_again"] else newest.inputs
    return OutputRequest(STEP, VERSION, name, decisive, inputs)


def ingest(config: IngestConfig, attempt: Attempt, workspace: Workspace) -> Draft:
    """Read what is new. Raises DataError for an empty dataset, or when too many rows are bad."""
    cache = workspace.cache
    earlier = _continued(attempt.request, attempt.store)
    journal = Journal(attempt, earlier.fingerprint if earlier else "nothing")
    begun = journal.begun()
    known = KnownRows(
        [*(shards_of(earlier.parts) if earlier else []), *begun],
        read_ranges(earlier.parts_of("files"), cache) if earlier else [],
        cache,
        num_begun=len(begun),
    )
    new = read_new(config, known, journal, workspace)
    kept, renamed = keep_claimed(known, new.shards, attempt, cache)
    ranges = merged([*known.claims(renamed), *new.ranges])
    return _draft(config, [*kept, *new.shards], ranges, attempt, cache)


def _earlier(store: Store, name: str) -> Iterator[Manifest]:
    """Datasets of this recipe and step version, the newest first."""
    for entry in reversed(log.entries(store, STEP, name)):
        found = read_manifest(store, f"{STEP}/{entry['fingerprint']}/manifest.json")
        if found is not None and found.step_version == VERSION:
            yield found


def _continued(request: OutputRequest, store: Store) -> Manifest | None:
    """The newest other dataset, where this one can continue it."""
    newest = next((m for m in _earlier(store, request.name) if m.fingerprint != request.fingerprint), None)
    if newest is None:
        return None
    same = {*newest.config, *request.config} - CONTINUED
    return newest if all(newest.config.get(name) == request.config.get(name) for name in same) else None


def _draft(
    config: IngestConfig, shards: Sequence[Shard], ranges: Sequence[RowRange], attempt: Attempt, cache: PartCache
) -> Draft:
    rows = read_rows(shards, cache)
    verdict_N = judge(rows)
    num_duplicates = int((verdict_N == DUPLICATE).sum())
    counts = {
        "rows_in": sum(shard.num_rows(kind) for shard in shards for kind in ROW_KINDS),
        "rows_out": int((verdict_N == COUNTS).sum()),
        "duplicates": num_duplicates,
        "quarantined": sum(quarantined_by_reason(shards, verdict_N, cache).values()),
        "images": sum(shard.num_rows("images") for shard in shards),
    }
    assert counts["rows_in"] == counts["rows_out"] + counts["duplicates"] + counts["quarantined"], counts
    _check(config, counts, shards, cache)
    excluded = excluded_table(rows, verdict_N, shards, config.near_duplicate_distance, cache)
    tables = {"masked": masked_table(rows, verdict_N), "excluded": excluded, "files": files_table(ranges)}
    pixels = digest_json(config.reencode.model_dump(mode="json")) if config.reencode else ""
    more = {"reencode_digest": pixels} if pixels else {}
    return Draft(
        parts=[part for shard in shards for part in shard.parts.values()] + upload_tables(tables, attempt),
        identity={
            "dataset_digest": dataset_digest(rows, verdict_N, excluded, pixels),
            "test_digest": split_digest(rows, verdict_N, "test", pixels),
            **more,
        },
        counts=counts | {"excluded": len(excluded), "to_try_again": num_passing(shards, cache)},
        facts={"statistics": statistics(shards, rows, verdict_N, cache)},
    )


def _check(config: IngestConfig, counts: dict[str, int], shards: Sequence[Shard], cache: PartCache) -> None:
    if counts["rows_in"] and counts["quarantined"] / counts["rows_in"] > config.max_quarantined_fraction:
        raise DataError(
            f"{counts['quarantined']} of {counts['rows_in']} rows are bad, the first: {first_problem(shards, cache)}; "
            f"expected at most {config.max_quarantined_fraction:.0%}. "
            "Repair the source or raise ingest.max_quarantined_fraction."
        )
    if not counts["rows_out"]:
        raise DataError(
            f"the sources hold {counts['rows_in']} rows and no usable example; expected at least one. "
            "Check that the annotation files belong to the images."
        )
