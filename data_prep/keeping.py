"""Taking the shards of an earlier output over, without the rows that were withdrawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data_prep.known_rows import KnownRows, RowRange
from data_prep.schemas import files_schema
from data_prep.shard_writer import write_rows
from data_prep.shards import ROW_KINDS, Shard, concatenated, digests_in, name_shard, read_columns
from infra.disk import scratch_folder
from infra.outputs import Attempt, Part
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def keep_claimed(
    known: KnownRows, new: Sequence[Shard], attempt: Attempt, cache: PartCache
) -> tuple[list[Shard], dict[str, str]]:
    """The known shards with the rows that are claimed and the images that rows show, new rows included; and the new
    names of those that had to be written again. A shard that loses nothing stays as it is, byte for byte."""
    if known.all_claimed:
        return known.shards, {}
    shown = _images_shown(known, new, cache)
    taken = {shard.name for shard in [*known.shards, *new]}
    kept: list[Shard] = []
    renamed: dict[str, str] = {}
    for shard in known.shards:
        masks = {kind: known.kept(shard, kind) for kind in ROW_KINDS if kind in shard.parts}
        if "image_index" in shard.parts:
            masks |= _image_masks(shard, shown, cache)
        if all(mask.all() for mask in masks.values()):
            kept.append(shard)
            continue
        now = name_shard(_written_again(shard, masks, attempt, cache), taken)
        taken.add(now.name)
        renamed[shard.name] = now.name
        if now.parts:
            kept.append(now)
    return kept, renamed


def _images_shown(known: KnownRows, new: Sequence[Shard], cache: PartCache) -> NDArray[np.bytes_]:
    import numpy as np

    tables = [read_columns(shard.parts["examples"], cache, ["image_id"]) for shard in new if "examples" in shard.parts]
    ids = [known.claimed_image_ids(), *(digests_in(table.column(0)) for table in tables)]
    return np.unique(concatenated(ids, "S32"))


def _image_masks(shard: Shard, shown: NDArray[np.bytes_], cache: PartCache) -> dict[str, NDArray[np.bool_]]:
    import numpy as np

    held = digests_in(read_columns(shard.parts["image_index"], cache, ["image_id"]).column(0))
    mask = np.isin(held, shown)
    return {"images": mask, "image_index": mask}


def _written_again(
    shard: Shard, masks: Mapping[str, NDArray[np.bool_]], attempt: Attempt, cache: PartCache
) -> dict[str, Part]:
    import pyarrow as pa

    parts: dict[str, Part] = {}
    with scratch_folder("ingest") as folder:
        for kind, mask in masks.items():
            if mask.all():
                parts[kind] = shard.parts[kind]
            elif mask.any():
                table = read_columns(shard.parts[kind], cache).filter(pa.array(mask))
                parts[kind] = attempt.add_part(write_rows(table, kind, folder), kind, len(table))
    return parts


def files_table(ranges: Sequence[RowRange]) -> pa.Table:
    """By `files_schema`."""
    import pyarrow as pa

    return pa.Table.from_pylist([vars(found) for found in ranges], files_schema())


def upload_tables(tables: Mapping[str, pa.Table], attempt: Attempt) -> list[Part]:
    """One part of each kind; none of an empty table."""
    parts: list[Part] = []
    with scratch_folder("ingest") as folder:
        for kind, table in tables.items():
            if len(table):
                parts.append(attempt.add_part(write_rows(table, kind, folder), kind, len(table)))
    return parts
