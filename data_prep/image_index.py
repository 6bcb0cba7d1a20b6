"""Finding images among millions: sorted digests of 32 bytes each, and no Python object per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from infra.outputs import Part
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Digests = NDArray[np.bytes_]

NUM_READERS = 8


class ImageIndex:
    """Which place an image has. Of several places the first given counts."""

    def __init__(self, digests: Sequence[Digests], places: Sequence[NDArray[np.int64]]) -> None:
        import numpy as np

        together = np.concatenate([np.empty(0, dtype="S32"), *digests])
        self._sorted, first = np.unique(together, return_index=True)
        self._places = np.concatenate([np.empty(0, dtype=np.int64), *places])[first]

    def __len__(self) -> int:
        return len(self._sorted)

    def find(self, digests: Digests) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """For each image whether it is known; and its place, which means nothing where it is not."""
        import numpy as np

        if not len(self):
            return np.zeros(len(digests), dtype=bool), np.zeros(len(digests), dtype=np.int64)
        at = np.searchsorted(self._sorted, digests).clip(max=len(self) - 1)
        return self._sorted[at] == digests, self._places[at]


def digests_of(image_ids: Sequence[str]) -> Digests:
    """Image ids as an array of 32 bytes each."""
    import numpy as np

    return np.frombuffer(bytes.fromhex("".join(image_ids)), dtype="S32")


def read_indexes(step: str, parts: Sequence[Part], cache: PartCache, columns: Sequence[str]) -> Iterable[Any]:
    """Tables of small index parts, in order. Several are fetched at a time: a far store answers slowly."""
    import pyarrow.parquet as pq

    with ThreadPoolExecutor(NUM_READERS) as pool:
        yield from pool.map(
            lambda part: pq.read_table(cache.path(step, part), columns=list(columns), use_threads=False), parts
        )
