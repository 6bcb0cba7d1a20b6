"""What a dataset goes on from: the whole shards of an earlier one, and which files their rows came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_prep.known_rows import RowRange, read_ranges
from data_prep.shards import Shard, concatenated, digests_in, read_columns, shards_of
from infra.part_cache import PartCache
from infra.remaining import Remaining


@dataclass(frozen=True)
class Continued:
    fingerprint: str
    shards: list[Shard] = field(default_factory=list)
    ranges: list[RowRange] = field(default_factory=list)
    """Of files of which no row is lost; the others have to be read again."""
    order: dict[str, int] = field(default_factory=dict)
    """Where each shard stood, lost ones included."""

    def in_order(self, shards: Sequence[Shard]) -> list[Shard]:
        """A shard that was made again stands where it stood; new ones follow."""
        return sorted(shards, key=lambda shard: self.order.get(shard.name, len(self.order)))


NOTHING = Continued("nothing")


def continued_from(earlier: Remaining, same_rows: bool, cache: PartCache) -> Continued:
    """A shard that lost one of its parts is read again as a whole: its parts belong together.

    `same_rows` says that every lost row will be read again. NOTHING where rows would be left without their image."""
    before = shards_of(earlier.manifest.parts)
    lost = [shard for shard in before if any(part.digest in earlier.lost for part in shard.parts.values())]
    whole = [shard for shard in before if shard not in lost]
    readable = [shard for shard in lost if same_rows and "examples" in shard.parts]
    again = [shard for shard in readable if shard.parts["examples"].digest not in earlier.lost]
    if lost and not _images_come_back(whole, again, cache):
        return NOTHING
    ranges = read_ranges(earlier.parts_of("files"), cache)
    broken = {found.file_key for found in ranges if found.shard in {shard.name for shard in lost}}
    return Continued(
        earlier.manifest.fingerprint,
        whole,
        [found for found in ranges if found.file_key not in broken],
        {shard.name: number for number, shard in enumerate(before)},
    )


def _images_come_back(whole: Sequence[Shard], again: Sequence[Shard], cache: PartCache) -> bool:
    """Whether each image that rows of whole shards show is in a whole shard, or shown by a row that is read again."""
    import numpy as np

    def ids(shards: Sequence[Shard], kind: str) -> "np.typing.NDArray[np.bytes_]":
        tables = [read_columns(shard.parts[kind], cache, ["image_id"]) for shard in shards if kind in shard.parts]
        return concatenated([digests_in(table.column(0)) for table in tables], "S32")

    away = np.setdiff1d(ids(whole, "examples"), ids(whole, "image_index"))
    return bool(np.isin(away, ids(again, "examples")).all())
