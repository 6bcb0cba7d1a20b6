"""Reading a committed dataset: its examples, its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from infra.outputs import Manifest, Part
from infra.part_cache import PartCache


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
    attributes: dict[str, str] = field(default_factory=dict)


def read_examples(dataset: Manifest, cache: PartCache, splits: Sequence[str]) -> list[Example]:
    """Examples of these splits, sorted by example_id: an order that does not depend on how the dataset grew."""
    import pyarrow.parquet as pq

    columns = ["example_id", "image_id", "task", "prompt", "targets", "split", "source", "weight", "attributes"]
    found: list[Example] = []
    for part in dataset.parts_of("examples"):
        table = pq.read_table(cache.path("ingest", part), columns=columns, filters=[("split", "in", list(splits))])
        for row in table.to_pylist():
            row["targets"] = tuple(row["targets"])
            row["attributes"] = dict(row["attributes"] or [])
            found.append(Example(**row))
    return sorted(found, key=lambda example: example.example_id)


def read_images(part: Part, cache: PartCache) -> Iterator[tuple[str, bytes]]:
    """(image_id, source bytes) of one image part, in file order."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(cache.path("ingest", part))
    for batch in file.iter_batches(batch_size=256, columns=["image_id", "bytes"]):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def images_by_id(dataset: Manifest, image_ids: set[str], cache: PartCache) -> dict[str, bytes]:
    """Source bytes of these images; the others are not read."""
    import pyarrow.parquet as pq

    found: dict[str, bytes] = {}
    for part in dataset.parts_of("images") if image_ids else []:
        wanted = [("image_id", "in", sorted(image_ids - set(found)))]
        table = pq.read_table(cache.path("ingest", part), columns=["image_id", "bytes"], filters=wanted)
        found.update(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
        if len(found) == len(image_ids):
            break
    return found
