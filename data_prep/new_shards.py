"""Reading what is new into shards, each noted as soon as it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.decode_pool import DecodePool, Inspected
from data_prep.forgotten import forgotten_images
from data_prep.ingest_config import IngestConfig
from data_prep.known_rows import RowRange
from data_prep.reading import ImageReader, ReadRow, read_rows, row_files
from data_prep.shard_writer import ShardWriter, StoredImage
from data_prep.shards import STEP, Shard, shards_of, upload_shard
from data_prep.sources import RowFault
from infra.disk import scratch_folder
from infra.outputs import Attempt, Part
from infra.workspace import Workspace

if TYPE_CHECKING:
    from data_prep.known_rows import KnownRows


class Journal:
    """The new shards of one attempt, in order. Another dataset to continue means other shards."""

    def __init__(self, attempt: Attempt, continued: str) -> None:
        self.attempt = attempt
        self._unit = f"after-{continued[:16]}-shard-"
        self._num_shards = 0

    def begun(self) -> list[Shard]:
        """Shards of an earlier attempt that was not finished. To be asked before `add`."""
        found: list[Shard] = []
        while (noted := self.attempt.noted(f"{self._unit}{len(found):05d}")) is not None:
            parts = [Part.model_validate(part) for part in noted["parts"]]
            if not all(self.attempt.holds(part) for part in parts):
                break
            found += shards_of(parts)
        self._num_shards = len(found)
        return found

    def add(self, shard: Shard) -> None:
        parts = [part.model_dump() for part in shard.parts.values()]
        self.attempt.note(f"{self._unit}{self._num_shards:05d}", {"parts": parts})
        self._num_shards += 1


@dataclass(frozen=True)
class NewShards:
    shards: list[Shard]
    ranges: list[RowRange]
    """Which of their rows came from which file."""
    taken: set[str]
    """Names of shards of this dataset."""


def read_new(config: IngestConfig, known: KnownRows, journal: Journal, workspace: Workspace) -> NewShards:
    """Claim what is known, and write the rest into new shards."""
    writer = ShardWriter(config.images_per_shard, config.split_fractions.model_dump())
    reader = ImageReader(known, forgotten_images(workspace.store))
    files = [file for file in row_files(config.sources) if not known.claim_file(file.key)]
    workspace.progress.start(STEP, 0, "new rows")
    new = NewShards([], [], taken={shard.name for shard in known.shards})
    unreadable: dict[str, RowFault] = {}
    pool = DecodePool(
        workspace.profile.ingest.num_processes,
        config.max_image_memory_bytes,
        config.max_image_seconds,
        config.reencode,
        window_items=config.images_per_shard,
    )
    with pool, scratch_folder("ingest") as folder:
        read = read_rows(files, known, reader)
        for (row, data), inspected in pool.inspect(((row, data), data) for row, data in read):
            _take(row, data, inspected, writer, unreadable)
            workspace.progress.advance(STEP)
            if writer.is_full:
                _commit(writer, new, journal, folder)
        if writer.has_rows:
            _commit(writer, new, journal, folder)
    workspace.progress.advance(STEP, 0, f"{known.num_claimed:,} rows were known")
    workspace.progress.finish(STEP)
    return new


def _take(
    row: ReadRow,
    data: bytes | None,
    inspected: Inspected | RowFault | None,
    writer: ShardWriter,
    unreadable: dict[str, RowFault],
) -> None:
    """Put the row where it belongs. An image that cannot be read is so for every row that shows it."""
    if isinstance(inspected, RowFault):
        unreadable[row.image_id] = inspected
    fault = row.fault or unreadable.get(row.image_id)
    if fault is None:
        stored = None
        if data is not None:
            assert isinstance(inspected, Inspected)
            stored = StoredImage(inspected.stored or data, inspected.facts)
        writer.add(row.new, row.image_id, stored)
    else:
        writer.quarantine(row.new, fault)


def _commit(writer: ShardWriter, new: NewShards, journal: Journal, folder: Path) -> None:
    shard = upload_shard(writer.write(folder), journal.attempt, new.taken)
    new.taken.add(shard.name)
    journal.add(shard)
    new.shards.append(shard)
    new.ranges.extend(writer.came_from(shard.name))
    writer.start_next()
