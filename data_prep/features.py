"""Reading stored patch features: verified, unpacked once per machine, memory-mapped, gathered by image.

Shapes: N images of a part, B images asked for, P patches, V vision width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import DataError
from infra.outputs import Manifest, Part
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FeatureStore:
    """Patch features of every image of a `featurize` output. Opening maps files; it reads no features."""

    def __init__(self, manifest: Manifest, cache: PartCache) -> None:
        import numpy as np

        self.num_patches = int(manifest.facts["num_patches"])
        self.vision_width = int(manifest.facts["vision_width"])
        self._maps: list[NDArray[np.float16]] = []
        self._place: dict[str, tuple[int, int]] = {}
        for number, part in enumerate(manifest.parts_of("features")):
            folder = _unpacked(part, cache, self.num_patches, self.vision_width)
            self._maps.append(np.load(folder / "features.npy", mmap_mode="r"))
            ids = (folder / "image_ids.txt").read_text().split()
            self._place.update({image_id: (number, row) for row, image_id in enumerate(ids)})

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._place

    def gather(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """float16[B, P, V] in the order asked. Raises DataError naming the first image without features."""
        import numpy as np

        out_BPV = np.empty((len(image_ids), self.num_patches, self.vision_width), dtype=np.float16)
        for position, image_id in enumerate(image_ids):
            place = self._place.get(image_id)
            if place is None:
                raise DataError(
                    f"image {image_id[:12]}… has no features among {len(self)} images; expected one row per image. "
                    "Run `frostline run RECIPE --force featurize`."
                )
            out_BPV[position] = self._maps[place[0]][place[1]]
        return out_BPV


def _unpacked(part: Part, cache: PartCache, num_patches: int, vision_width: int) -> Path:
    """A folder with `features.npy` and `image_ids.txt` of one verified part; Parquet itself cannot be mapped."""
    target = cache.folder / "features" / part.digest
    if target.exists():
        return target
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(cache.path("featurize", part))
    column = table.column("features").combine_chunks()
    flat = np.frombuffer(column.buffers()[1], dtype=np.float16, count=len(column) * num_patches * vision_width)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".tmp-"))
    np.save(temporary / "features.npy", flat.reshape(-1, num_patches, vision_width))
    (temporary / "image_ids.txt").write_text("\n".join(table.column("image_id").to_pylist()))
    try:
        temporary.rename(target)
    except OSError:  # another process was first
        import shutil

        shutil.rmtree(temporary)
    return target
