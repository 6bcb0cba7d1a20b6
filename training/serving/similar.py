"""The stored images that are most like a picture: exact search over the mean patch features of one featurize output.

The index lies in the cache as files that replicas map, so that they share its memory. It is made from verified parts
and holds nothing that the store does not; `frostline forget` removes it with the cache's other folders.
Shapes: N stored images, P patches, V vision width.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.dataset import dataset_with, read_examples
from data_prep.feature_parts import STEP as FEATURIZE
from data_prep.features import FeatureStore
from data_prep.forgotten import forgotten_images
from data_prep.image_index import read_indexes
from data_prep.shards import STEP as INGEST
from data_prep.views import ORIGINAL
from infra.digests import digest_json
from infra.errors import ConfigError
from infra.outputs import Manifest, manifest_key, read_manifest
from infra.part_cache import PartCache
from infra.store import Store
from training.serving.work import Neighbour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGES_AT_A_TIME = 4096
MAX_CAPTIONS = 5
INDEX_VERSION = 1
_VECTORS, _ROWS = "vectors.npy", "rows.arrow"


class SimilarImages:
    """An open index. Images that were forgotten since it was made are never answered."""

    def __init__(self, folder: Path, store: Store) -> None:
        import numpy as np
        import pyarrow as pa

        self._store = store
        self._vectors_NV = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        self._rows = pa.ipc.open_file(pa.memory_map(str(folder / _ROWS))).read_all()

    @classmethod
    def of(cls, features: str, dataset: str, store: Store, cache: PartCache) -> SimilarImages | None:
        """By the fingerprints of a featurize output and of the dataset with its captions; None where the store has no
        such features. The index is made where this machine has none."""
        found = read_manifest(store, manifest_key(FEATURIZE, features))
        if found is None:
            return None
        rows = read_manifest(store, manifest_key(INGEST, dataset))
        named = digest_json([INDEX_VERSION, [part.digest for part in found.parts], dataset if rows else None])
        folder = cache.folder / "folders" / f"similar-{named}"
        if not folder.exists():
            _make(folder, found, _captions(rows, cache) if rows else {}, cache)
        return cls(folder, store)

    def nearest(self, patches_PV: NDArray[np.float16], count: int) -> tuple[Neighbour, ...]:
        """The `count` most similar, the most similar first."""
        import numpy as np

        forgotten = forgotten_images(self._store)
        similarities_N = np.concatenate([part_NV @ pooled(patches_PV[None])[0] for part_NV in self._parts()])
        found: list[Neighbour] = []
        for place in np.argsort(-similarities_N, kind="stable").tolist():
            if len(found) == count:
                break
            image_id = self._rows.column("image_id")[place].as_py()
            if image_id not in forgotten:
                captions = tuple(self._rows.column("captions")[place].as_py())
                found.append(Neighbour(image_id, float(similarities_N[place]), captions))
        return tuple(found)

    def _parts(self) -> Iterator[Any]:
        for start in range(0, max(1, len(self._vectors_NV)), IMAGES_AT_A_TIME):
            yield self._vectors_NV[start : start + IMAGES_AT_A_TIME]


def dataset_behind(features: str, store: Store) -> str | None:
    """Fingerprint of the newest dataset with the rows that this featurize output was made of; None where it was
    removed. Raises ConfigError where there is no such output."""
    found = read_manifest(store, manifest_key(FEATURIZE, features))
    if found is None:
        raise ConfigError(
            f"--index {features}: no featurize output of this fingerprint is in the store; expected one that is there. "
            "`frostline status --json` lists them, or leave --index out."
        )
    dataset = dataset_with(found.inputs["dataset_digest"], store)
    return dataset.fingerprint if dataset else None


def pooled(patches_NPV: NDArray[np.float16]) -> NDArray[np.float32]:
    """[N, V] of length 1: the mean over the patches."""
    import numpy as np

    means_NV = patches_NPV.astype(np.float32).mean(axis=1)
    norms_N1 = np.linalg.norm(means_NV, axis=1, keepdims=True)
    found: NDArray[np.float32] = means_NV / np.maximum(norms_N1, np.finfo(np.float32).tiny)
    return found


def _captions(dataset: Manifest, cache: PartCache) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for example in read_examples(dataset, cache, ["train", "val", "test"]):
        if example.task == "caption":
            found.setdefault(example.image_id, []).extend(example.targets)
    return found


def _make(folder: Path, features: Manifest, captions: Mapping[str, list[str]], cache: PartCache) -> None:
    """Whole or not at all: the folder appears by one rename."""
    import numpy as np
    import pyarrow as pa

    image_ids = _image_ids(features, cache)
    stored = FeatureStore(features, cache)
    temporary = folder.parent / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        shape = (len(image_ids), stored.vision_width)
        vectors_NV = np.lib.format.open_memmap(temporary / _VECTORS, "w+", np.float32, shape)
        for start in range(0, len(image_ids), IMAGES_AT_A_TIME):
            some = image_ids[start : start + IMAGES_AT_A_TIME]
            vectors_NV[start : start + len(some)] = pooled(stored.gather(some))
        vectors_NV.flush()
        told = [captions.get(image_id, [])[:MAX_CAPTIONS] for image_id in image_ids]
        rows = pa.table(
            {"image_id": pa.array(image_ids, pa.string()), "captions": pa.array(told, pa.list_(pa.string()))}
        )
        with pa.OSFile(str(temporary / _ROWS), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
        with suppress(OSError):  # another process was first
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _image_ids(features: Manifest, cache: PartCache) -> list[str]:
    import pyarrow.compute as pc

    found: set[str] = set()
    for table in read_indexes(FEATURIZE, features.parts_of("feature_index"), cache, ["image_id", "view"]):
        found.update(table.filter(pc.equal(table.column("view"), ORIGINAL)).column("image_id").to_pylist())
    return sorted(found)
