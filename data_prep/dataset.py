"""Reading a committed dataset: its examples, its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data_prep.schemas import IMAGES_PER_ROW_GROUP
from data_prep.shards import STEP, read_columns, shards_of
from infra.outputs import Manifest, Part
from infra.part_cache import PartCache
from infra.store import Store
from infra.verify import manifests

_COLUMNS = ["example_id", "image_id", "task", "prompt", "targets", "numbers", "label", "split", "source"]
_COLUMNS += ["weight", "attributes"]


@dataclass(frozen=True)
class Example:
    """One row of `examples`."""

    example_id: str
    image_id: str
    task: str
    prompt: str
    targets: tuple[str, ...]
    split: str
    source: str
    weight: float = 1.0
    numbers: tuple[float, ...] = ()
    label: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


def read_examples(dataset: Manifest, cache: PartCache, splits: Sequence[str]) -> list[Example]:
    """Examples of these splits, sorted by example_id: an order that does not depend on how the dataset grew.

    Duplicates, conflicts, and train and val images that look like a test image are left out."""
    masked = masked_rows(dataset, cache)
    excluded = excluded_images(dataset, cache)
    found: list[Example] = []
    for shard in shards_of(dataset.parts):
        if "examples" not in shard.parts:
            continue
        table = read_columns(shard.parts["examples"], cache, _COLUMNS)
        skipped = masked.get(shard.name, set())
        for position, row in enumerate(table.to_pylist()):
            if position in skipped or row["split"] not in splits or row["image_id"] in excluded:
                continue
            row |= {
                "targets": tuple(row["targets"]),
                "numbers": tuple(row["numbers"] or ()),
                "label": row["label"] or "",
            }
            row["attributes"] = dict(row["attributes"] or [])
            found.append(Example(**row))
    return sorted(found, key=lambda example: example.example_id)


def masked_rows(dataset: Manifest, cache: PartCache) -> dict[str, set[int]]:
    """By shard, the positions of rows in its `examples` part that do not count."""
    found: dict[str, set[int]] = {}
    for part in dataset.parts_of("masked"):
        table = read_columns(part, cache, ["shard", "row"])
        for shard, row in zip(table.column("shard").to_pylist(), table.column("row").to_pylist(), strict=True):
            found.setdefault(shard, set()).add(row)
    return found


def excluded_images(dataset: Manifest, cache: PartCache) -> set[str]:
    """Ids of train and val images that look like a test image."""
    parts = dataset.parts_of("excluded")
    return {image_id for part in parts for image_id in read_columns(part, cache, ["image_id"]).column(0).to_pylist()}


def read_images(part: Part, cache: PartCache) -> Iterator[tuple[str, bytes]]:
    """(image_id, source bytes) of one image part, in file order; a row group of them is in memory at a time."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(cache.path("ingest", part), pre_buffer=False)
    for batch in file.iter_batches(batch_size=IMAGES_PER_ROW_GROUP, columns=["image_id", "bytes"]):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def images_by_id(dataset: Manifest, image_ids: set[str], cache: PartCache) -> dict[str, bytes]:
    """Source bytes of these images; shards that hold none of them are not fetched."""
    import pyarrow.parquet as pq

    found: dict[str, bytes] = {}
    for shard in shards_of(dataset.parts):
        if len(found) == len(image_ids):
            break
        if "images" not in shard.parts:
            continue
        held = image_ids.intersection(
            read_columns(shard.parts["image_index"], cache, ["image_id"]).column(0).to_pylist()
        )
        if held:
            path = cache.path("ingest", shard.parts["images"])
            table = pq.read_table(path, columns=["image_id", "bytes"], filters=[("image_id", "in", sorted(held))])
            found.update(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
    return found


def dataset_with(dataset_digest: str, store: Store) -> Manifest | None:
    """The newest `ingest` output that holds these rows; None where each was removed."""
    found = [each for _, each in manifests(store, STEP) if isinstance(each, Manifest)]
    fitting = [each for each in found if each.identity["dataset_digest"] == dataset_digest]
    return max(fitting, key=lambda each: each.record.created_at, default=None)
