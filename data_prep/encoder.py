"""The actor of `featurize`: image parts in, feature parts out. Only what names the parts goes to the driver."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset import read_images
from data_prep.feature_parts import FeatureWriter
from data_prep.pins import Pin, verified_folder
from data_prep.preprocess import pixel_batches
from data_prep.tower import FeatureConfig, Tower
from data_prep.views import view_names
from infra.digests import digest_json
from infra.disk import scratch_folder
from infra.errors import DataError
from infra.outputs import Part
from infra.part_cache import PartCache
from infra.settings import cache_on_this_node
from infra.store import open_store


@dataclass(frozen=True)
class Unit:
    """Images of one part to encode: these, or all where `image_ids` is None."""

    image_part: Part
    image_ids: Sequence[str] | None

    @property
    def name(self) -> str:
        """What it is noted as: other images of the same part are another unit."""
        if self.image_ids is None:
            return self.image_part.digest
        return digest_json([self.image_part.digest, sorted(self.image_ids)])

    @property
    def num_images(self) -> int:
        return self.image_part.num_rows if self.image_ids is None else len(self.image_ids)


class Encoder:
    """Lives in a Ray actor on any node: finds the tower by its pin, and keeps what it fetches in the node's cache."""

    def __init__(
        self,
        store_uri: str,
        cache_dir: str,
        tower: Mapping[str, Any],
        config: Mapping[str, Any],
        batch_size: int,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.store = open_store(store_uri)
        self.threads = threads
        self.cache = PartCache(self.store, cache_on_this_node(Path(cache_dir)))
        folder = verified_folder(Pin.model_validate(tower), self.cache.folder, self.store)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tower = Tower(folder, FeatureConfig.model_validate(config), batch_size, device)

    def run(self, unit: Unit) -> list[dict[str, Any]]:
        """Encode the images of a unit and upload their features: the feature part and its index part."""
        writer: FeatureWriter | None = None
        with scratch_folder("features") as folder:
            for batch in pixel_batches(self._images(unit), self.tower, self.threads):
                features_BPV = self.tower.encode_pixels(batch.pixels_BCHW)
                _check_finite(batch.image_ids, features_BPV)
                writer = writer or FeatureWriter(folder, *features_BPV.shape[1:])
                writer.write(batch.image_ids, batch.views, features_BPV)
            assert writer is not None, "a unit has images"
            facts = {
                "views": view_names(self.tower.config.views),
                "image_part": unit.image_part.digest,
                "complete": unit.num_images == unit.image_part.num_rows,
            }
            return [part.model_dump() for part in writer.upload(self.store, facts)]

    def _images(self, unit: Unit) -> Iterator[tuple[str, bytes]]:
        wanted = None if unit.image_ids is None else set(unit.image_ids)
        for image_id, data in read_images(unit.image_part, self.cache):
            if wanted is None or image_id in wanted:
                yield image_id, data


def _check_finite(image_ids: Sequence[str], features_BPV: Any) -> None:
    """Raises DataError naming the first image with non-finite features."""
    import torch

    finite_B = torch.from_numpy(features_BPV).isfinite().flatten(1).all(dim=1)
    if not finite_B.all():
        row = int(finite_B.int().argmin())
        raise DataError(
            f"image {image_ids[row][:12]}… has non-finite features; expected all finite in float16. "
            "Take an earlier layer (featurize.layer) or a wider dtype (featurize.dtype: float32), or remove the image."
        )
