"""Reading stored patch features: each image's row where it lies in a verified part.

Shapes: B images asked for, P patches, V vision width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from data_prep.feature_parts import STEP, FeatureFile
from data_prep.image_index import ImageIndex, digests_of, read_indexes
from data_prep.views import ORIGINAL
from infra.errors import DataError
from infra.outputs import Manifest
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_prep.image_index import Digests

MAX_OPEN_FILES = 256


class FeatureStore:
    """Patch features of every image of a `featurize` output. Opening reads small index parts; a feature part is
    fetched and verified when the first of its images is asked for."""

    def __init__(self, manifest: Manifest, cache: PartCache) -> None:
        self.num_patches = int(manifest.facts["num_patches"])
        self.vision_width = int(manifest.facts["vision_width"])
        self.views: list[str] = list(manifest.facts["views"])
        """Names of what is stored of each image: `original`, then its augmentations."""
        parts = manifest.parts_of("features")
        self._rows = _rows_of(manifest, cache)
        # A closure, and no method: a cache on a method would keep every store alive.
        self._file = lru_cache(MAX_OPEN_FILES)(lambda number: FeatureFile(cache.path(STEP, parts[number])))

    def __len__(self) -> int:
        return len(self._rows[ORIGINAL])

    def __contains__(self, image_id: str) -> bool:
        return not self.missing([image_id])

    def missing(self, image_ids: Sequence[str], view: str = ORIGINAL) -> list[str]:
        """Those of the images that have no features. Raises DataError where there is no such view."""
        found, _ = self._rows_of_view(view).find(digests_of(image_ids))
        return [image_id for image_id, is_found in zip(image_ids, found.tolist(), strict=True) if not is_found]

    def gather(self, image_ids: Sequence[str], view: str = ORIGINAL) -> NDArray[np.float16]:
        """float16[B, P, V] in the order asked. Raises DataError naming the first image without features."""
        import numpy as np

        found, places = self._rows_of_view(view).find(digests_of(image_ids))
        if not found.all():
            raise DataError(
                f"image {image_ids[int(found.argmin())][:12]}… has no features among {len(self)} images; expected one "
                "row per image. Run `frostline run RECIPE --force featurize`."
            )
        out_BPV = np.empty((len(image_ids), self.num_patches, self.vision_width), dtype=np.float16)
        rows = out_BPV.reshape(len(image_ids), -1).view(np.uint8)
        for values, place in zip(rows, places.tolist(), strict=True):
            number, row = divmod(place, _PARTS_APART)
            self._file(number).read_into(row, values)
        return out_BPV

    def _rows_of_view(self, view: str) -> ImageIndex:
        if view not in self._rows:
            raise DataError(
                f"the view {view!r} was asked for; expected one of {', '.join(self.views)}. Raise featurize.views."
            )
        return self._rows[view]


_PARTS_APART = 2**32
"""A place is part number × this + row: one number, so that ten million of them are one small array."""


def _rows_of(manifest: Manifest, cache: PartCache) -> dict[str, ImageIndex]:
    """By view, where each image's features lie."""
    import numpy as np
    import pyarrow.compute as pc

    numbers = {part.digest: number for number, part in enumerate(manifest.parts_of("features"))}
    indexes = manifest.parts_of("feature_index")
    digests: dict[str, list[Digests]] = {view: [] for view in manifest.facts["views"]}
    places: dict[str, list[NDArray[np.int64]]] = {view: [] for view in digests}
    for part, table in zip(indexes, read_indexes(STEP, indexes, cache, ["image_id", "view"]), strict=True):
        first = numbers[part.facts["features"]] * _PARTS_APART
        for view in digests:
            rows = np.flatnonzero(pc.equal(table.column("view"), view))
            digests[view].append(digests_of(table.column("image_id").take(rows).to_pylist()))
            places[view].append(first + rows)
    return {view: ImageIndex(digests[view], places[view]) for view in digests}
