"""What is encoded already under an encoder key, told from small parts: the cost follows shards, not images."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.encoder import Unit
from data_prep.feature_parts import STEP
from data_prep.image_index import ImageIndex, digests_of, read_indexes
from infra import log
from infra.outputs import Manifest, Part
from infra.part_cache import PartCache
from infra.remaining import Remaining, find_remaining
from infra.store import Store


@dataclass(frozen=True)
class Encoded:
    """A feature part and its index part."""

    features: Part
    index: Part


def find_encoded(key: str, dataset: Manifest, store: Store, cache: PartCache) -> tuple[list[Encoded], list[Unit]]:
    """Parts of earlier outputs under `key` that hold images of the dataset, and what is left to encode.

    An image part that a feature part names as wholly encoded is settled by that; ids are read of the others only."""
    image_parts = {part.digest: part for part in dataset.parts_of("images")}
    earlier: dict[str, Encoded] = {}
    whole: dict[str, Encoded] = {}
    for remaining in _newest_first(key, store):
        for encoded in encoded_parts(remaining):
            earlier.setdefault(encoded.features.digest, encoded)
            if encoded.features.facts["complete"]:
                whole.setdefault(encoded.features.facts["image_part"], encoded)
        if image_parts.keys() <= whole.keys():
            break
    found = [whole[digest] for digest in image_parts if digest in whole]
    unnamed = [part for digest, part in image_parts.items() if digest not in whole]
    if not unnamed or not earlier:
        return found, [Unit(part, None) for part in unnamed]
    others, units = _by_image(unnamed, dataset, list(earlier.values()), cache)
    return list({encoded.features.digest: encoded for encoded in [*found, *others]}.values()), units


def encoded_parts(output: Manifest | Remaining) -> list[Encoded]:
    """The feature parts that have their index part."""
    index = {part.facts["features"]: part for part in output.parts_of("feature_index")}
    return [Encoded(part, index[part.digest]) for part in output.parts_of("features") if part.digest in index]


def _newest_first(key: str, store: Store) -> Iterator[Remaining]:
    for entry in reversed(log.entries(store, STEP, key)):
        remaining = find_remaining(store, STEP, entry["fingerprint"])
        if remaining is not None:
            yield remaining


def _by_image(
    image_parts: list[Part], dataset: Manifest, earlier: list[Encoded], cache: PartCache
) -> tuple[list[Encoded], list[Unit]]:
    import numpy as np

    tables = read_indexes(STEP, [encoded.index for encoded in earlier], cache, ["image_id"])
    digests = [digests_of(table.column(0).to_pylist()) for table in tables]
    known = ImageIndex(digests, [np.full(len(found), number) for number, found in enumerate(digests)])
    index_of = {part.facts["images"]: part for part in dataset.parts_of("image_index")}
    indexes = [index_of[part.digest] for part in image_parts]
    used: set[int] = set()
    units: list[Unit] = []
    for part, table in zip(image_parts, read_indexes("ingest", indexes, cache, ["image_id"]), strict=True):
        image_ids = table.column(0).to_pylist()
        is_known, numbers = known.find(digests_of(image_ids))
        used.update(numbers[is_known].tolist())
        if not is_known.all():
            missing = [image_id for image_id, skip in zip(image_ids, is_known, strict=True) if not skip]
            units.append(Unit(part, missing))
    return [earlier[number] for number in sorted(used)], units
