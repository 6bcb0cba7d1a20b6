"""The `ingest` step: sources → Parquet parts of images and examples, every row accounted for."""

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from data_prep.shard_writer import ShardWriter
from data_prep.sources import BadRow, Source, SourceConfig, SourceRow, open_source
from data_prep.statistics import Statistics
from infra.digests import digest_sorted
from infra.errors import DataError
from infra.outputs import Attempt, Draft, OutputRequest, Part
from infra.part_cache import PartCache
from infra.workspace import Workspace

STEP = "ingest"
VERSION = 1
PATH_FIELDS = {"annotations", "images", "path"}


class SplitFractions(BaseModel):
    """Shares of images without a split of their own; the rest is train."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    val: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)


class IngestConfig(BaseModel):
    """What decides the rows of the dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sources: list[SourceConfig] = Field(min_length=1)
    split_fractions: SplitFractions = SplitFractions()
    images_per_shard: int = Field(default=512, gt=0)
    """How much is done again after a crash, at most; and the unit of work of `featurize`."""
    max_quarantined_fraction: float = Field(default=0.05, ge=0, le=1)
    """More bad rows than this stop the step: then the source is broken, not a few rows."""


def ingest_request(config: IngestConfig, name: str) -> OutputRequest:
    """Where files are is left out; names, sizes and modification times are in. Raises ConfigError for missing files."""
    listings = [open_source(source).listing() for source in config.sources]
    decisive = config.model_dump(mode="json", exclude={"sources", "max_quarantined_fraction"})
    decisive["sources"] = [source.model_dump(mode="json", exclude=PATH_FIELDS) for source in config.sources]
    return OutputRequest(STEP, VERSION, name, decisive, {"source_listing": _listing_digest(listings)})


def ingest(config: IngestConfig, attempt: Attempt, workspace: Workspace) -> Draft:
    """Read every source once. Raises DataError for an empty dataset, or when too many rows are bad."""
    writer = ShardWriter(config.split_fractions.val, config.split_fractions.test)
    parts: list[Part] = []
    number = 0
    while (noted := attempt.noted(_unit(number))) is not None:
        found = [Part.model_validate(part) for part in noted["parts"]]
        if not all(attempt.holds(part) for part in found):
            break
        writer.restore(found, noted["rows_in"], noted["duplicates"], workspace.cache)
        parts += found
        number += 1
    sources = [open_source(source) for source in config.sources]
    label = "ingest"
    workspace.progress.start(label, 0, "rows", done=writer.rows_in)
    with tempfile.TemporaryDirectory(prefix="frostline-ingest-") as folder:
        for row in _rows_from(sources, writer.rows_in):
            if isinstance(row, BadRow):
                writer.quarantine(row)
            else:
                writer.add(row)
            workspace.progress.advance(label)
            if writer.num_images >= config.images_per_shard:
                parts += _commit_shard(writer, attempt, number, Path(folder))
                number += 1
        if writer.has_rows:
            parts += _commit_shard(writer, attempt, number, Path(folder))
    workspace.progress.finish(label)
    return _draft(parts, writer, config, workspace.cache)


def _rows_from(sources: list[Source], start: int) -> Iterator[SourceRow | BadRow]:
    """Rows of all sources one after the other, from the overall position `start` on."""
    if len(sources) == 1:
        return sources[0].rows(start)
    rows = chain.from_iterable(source.rows() for source in sources)
    return (row for position, row in enumerate(rows) if position >= start)


def _commit_shard(writer: ShardWriter, attempt: Attempt, number: int, folder: Path) -> list[Part]:
    parts = [attempt.add_part(path, kind, rows) for kind, path, rows in writer.write(folder)]
    note = {
        "parts": [part.model_dump() for part in parts],
        "rows_in": writer.rows_in,
        "duplicates": writer.duplicates,
    }
    attempt.note(_unit(number), note)
    return parts


def _draft(parts: list[Part], writer: ShardWriter, config: IngestConfig, cache: PartCache) -> Draft:
    rows = {kind: sum(part.num_rows for part in parts if part.kind == kind) for kind in ("examples", "quarantine")}
    if writer.rows_in and rows["quarantine"] / writer.rows_in > config.max_quarantined_fraction:
        raise DataError(
            f"{rows['quarantine']} of {writer.rows_in} rows are bad, the first: {writer.first_problem}; expected "
            f"at most {config.max_quarantined_fraction:.0%}. "
            "Repair the source or raise ingest.max_quarantined_fraction."
        )
    if not rows["examples"]:
        raise DataError(
            f"the sources hold {writer.rows_in} rows and no usable example; expected at least one. "
            "Check that the annotation files belong to the images."
        )
    statistics = Statistics(parts, cache)
    counts = {
        "rows_in": writer.rows_in,
        "rows_out": rows["examples"],
        "duplicates": writer.duplicates,
        "quarantined": rows["quarantine"],
        "images": sum(part.num_rows for part in parts if part.kind == "images"),
    }
    assert counts["rows_in"] == counts["rows_out"] + counts["duplicates"] + counts["quarantined"], counts
    return Draft(
        parts=parts,
        identity={
            "dataset_digest": digest_sorted(statistics.row_digests),
            "train_digest": digest_sorted(statistics.split_digests(("train", "val"))),
            "test_digest": digest_sorted(statistics.split_digests(("test",))),
        },
        counts=counts,
        facts={"statistics": statistics.summary()},
    )


def _unit(number: int) -> str:
    return f"shard-{number:05d}"


def _listing_digest(listings: list[list[dict[str, Any]]]) -> str:
    from infra.digests import digest_json

    return digest_json(listings)
