"""The `ingest` step: sources → Parquet parts of images and examples, every row accounted for.

A dataset continues the newest one of its recipe: rows that were read already are taken over with their shards, only
what is new is read, and only shards of which rows were withdrawn are written again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from data_prep.continuing import NOTHING, continued_from
from data_prep.drafting import draft_of, rules_in
from data_prep.forgotten import forgotten_input
from data_prep.ingest_config import IngestConfig
from data_prep.keeping import keep_claimed
from data_prep.known_rows import KnownRows, merged
from data_prep.new_shards import Journal, read_new
from data_prep.shards import STEP, Shard
from data_prep.sources import PATH_FIELDS, open_source
from data_prep.sources.base import fingerprint_facts
from data_prep.statistics import first_problem, told
from infra import log
from infra.digests import digest_json
from infra.errors import DataError, PlatformError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest
from infra.part_cache import PartCache
from infra.remaining import Remaining, find_remaining
from infra.store import Store
from infra.workspace import Workspace

VERSION = 2
CONTINUED = {"sources", "images_per_shard", "max_quarantined_fraction", "near_duplicate_distance"}
"""Fields in which a dataset may differ from the one it continues."""
LISTING = "source_listing"
TRIES_AGAIN = "tries_again"
"""The input that names the dataset whose passing failures are tried again."""


def ingest_request(config: IngestConfig, name: str, store: Store) -> OutputRequest:
    """Where files are is left out; names, sizes and versions are in. Raises ConfigError for missing files.

    Where the newest dataset of these very sources has rows to try again, this is a request for another try."""
    decisive = config.model_dump(mode="json", exclude={"sources", "max_quarantined_fraction"})
    decisive["sources"] = [source.model_dump(mode="json", exclude=PATH_FIELDS) for source in config.sources]
    inputs = {LISTING: digest_json(_listings(config)), **forgotten_input(store)}
    for found in _earlier(store, name):
        made = found.manifest
        if made.config == decisive and inputs.items() <= made.inputs.items():
            inputs = {**inputs, TRIES_AGAIN: made.fingerprint} if made.counts["to_try_again"] else made.inputs
            break
    return OutputRequest(STEP, VERSION, name, decisive, inputs)


def ingest(config: IngestConfig, attempt: Attempt, workspace: Workspace) -> Draft:
    """Read what is new. Raises DataError for an empty dataset, or when too many rows are bad."""
    cache = workspace.cache
    earlier = _continued(attempt.request, attempt.store)
    anew = earlier is not None and _is(earlier.manifest, attempt.request)
    continued = continued_from(earlier, anew, cache) if earlier else NOTHING
    journal = Journal(attempt, continued.fingerprint)
    begun = journal.begun()
    num_settled = len(continued.shards) if anew else 0
    known = KnownRows([*continued.shards, *begun], continued.ranges, cache, num_settled)
    listed = _listings(config)
    new = read_new(config, known, journal, workspace)
    _check_unchanged(config, listed, attempt.request)
    kept, renamed = keep_claimed(known, new.shards, attempt, cache)
    shards = continued.in_order([*kept, *new.shards])
    ranges = merged([*known.claims(renamed), *new.ranges])
    found = draft_of(shards, ranges, rules_in(attempt.request.config), attempt, cache)
    _check(config, found, shards, cache)
    return found


def _earlier(store: Store, name: str) -> Iterator[Remaining]:
    """Datasets of this recipe and step version as far as they are there, the newest first."""
    for entry in reversed(log.entries(store, STEP, name)):
        found = find_remaining(store, STEP, entry["fingerprint"])
        if found is not None and found.manifest.step_version == VERSION:
            yield found


def _continued(request: OutputRequest, store: Store) -> Remaining | None:
    """The newest other dataset, where this one can continue it; or what is left of this one."""
    newest = next((r for r in _earlier(store, request.name) if r.lost or not _is(r.manifest, request)), None)
    if newest is None:
        return None
    before = newest.manifest.config
    same = {*before, *request.config} - CONTINUED
    return newest if all(before.get(name) == request.config.get(name) for name in same) else None


def _is(manifest: Manifest, request: OutputRequest) -> bool:
    return manifest.fingerprint == request.fingerprint


def _listings(config: IngestConfig) -> list[list[dict[str, Any]]]:
    """What the fingerprint says of the files of each source."""
    return [fingerprint_facts(open_source(source).listing()) for source in config.sources]


def _check_unchanged(config: IngestConfig, listed: list[list[dict[str, Any]]], request: OutputRequest) -> None:
    """The rows are those of the files that the fingerprint names, or there is no output."""
    now = _listings(config)
    if digest_json(now) == request.inputs[LISTING]:
        return
    before, after = ({tuple(file.values()) for files in listing for file in files} for listing in (listed, now))
    changed = min((str(facts[0]) for facts in before ^ after), default="at the very start")
    raise PlatformError(
        f"the sources changed while they were read ({changed}); expected the files that were listed at the start. "
        "Start again when nothing writes into them any more, and keep the folder var/ out of them."
    )


def _check(config: IngestConfig, draft: Draft, shards: Sequence[Shard], cache: PartCache) -> None:
    counts, reasons = draft.counts, draft.facts["statistics"]["quarantined_by_reason"]
    if counts["rows_in"] and counts["quarantined"] / counts["rows_in"] > config.max_quarantined_fraction:
        raise DataError(
            f"{counts['quarantined']} of {counts['rows_in']} rows are bad ({told(reasons)}), the first: "
            f"{first_problem(shards, cache)}; expected at most {config.max_quarantined_fraction:.0%}. "
            "Repair the source or raise ingest.max_quarantined_fraction."
        )
    if not counts["rows_out"]:
        raise DataError(
            f"the sources hold {counts['rows_in']} rows and no usable example; expected at least one. "
            "Check that the annotation files belong to the images."
        )
