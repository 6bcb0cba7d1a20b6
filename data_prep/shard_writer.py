"""Rows → one shard's Parquet files, one shard after the other."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.known_rows import RowRange, merged
from data_prep.schemas import (
    IMAGE_INDEX_COLUMNS,
    IMAGES_PER_ROW_GROUP,
    SPLITS,
    example_id_of,
    examples_schema,
    image_index_schema,
    images_schema,
    quarantine_schema,
)
from data_prep.sources import BadRow, RowFault, SourceRow
from infra.digests import canonical_json
from infra.disk import writing_below

if TYPE_CHECKING:
    import pyarrow as pa

    from data_prep.images import ImageFacts

MAX_SHARD_BYTES = 256 * 2**20
MAX_ROWS_PER_IMAGE = 16
"""A shard is also full at so many times its number of images: questions about images of earlier shards fill it too."""


@dataclass(frozen=True)
class NewRow:
    """A source row that no earlier output holds."""

    row: SourceRow | BadRow
    source: str
    weight: float
    file_key: bytes
    row_key: bytes
    image_key: bytes = bytes(32)

    @property
    def uri(self) -> str:
        return self.row.name if isinstance(self.row, BadRow) else self.row.image.name


@dataclass(frozen=True)
class StoredImage:
    """An image that no shard holds yet."""

    data: bytes
    facts: ImageFacts


class ShardWriter:
    """Collects the rows of one shard at a time; a row is an example or quarantined."""

    def __init__(self, images_per_shard: int, split_fractions: Mapping[str, float]) -> None:
        self._images_per_shard = images_per_shard
        self._fractions = split_fractions
        self.start_next()

    def start_next(self) -> None:
        """Forget the rows of this shard."""
        self._images: list[dict[str, Any]] = []
        self._examples: list[dict[str, Any]] = []
        self._quarantine: list[dict[str, Any]] = []
        self._num_bytes = 0
        self._came_from: dict[str, list[bytes]] = {"examples": [], "quarantine": []}

    @property
    def is_full(self) -> bool:
        num_rows = len(self._examples) + len(self._quarantine)
        return (
            len(self._images) >= self._images_per_shard
            or self._num_bytes >= MAX_SHARD_BYTES
            or num_rows >= self._images_per_shard * MAX_ROWS_PER_IMAGE
        )

    @property
    def has_rows(self) -> bool:
        return bool(self._examples or self._quarantine)

    def add(self, new: NewRow, image_id: str, stored: StoredImage | None) -> None:
        """Take in a row without a problem whose image is known to be good."""
        assert isinstance(new.row, SourceRow)
        example = _example(new, image_id, self._split(new.row, image_id))
        row_digest = hashlib.sha256(canonical_json(example)).digest()
        if stored is not None:
            self._images.append(_image(new, image_id, stored))
            self._num_bytes += len(stored.data)
        self._examples.append(example | {"row_digest": row_digest, "row_key": new.row_key, "image_key": new.image_key})
        self._came_from["examples"].append(new.file_key)

    def quarantine(self, new: NewRow, fault: RowFault) -> None:
        self._quarantine.append(
            {
                "source_uri": _storable(new.uri),
                "source": new.source,
                "row": new.row.row,
                "reason": fault.reason,
                "message": _storable(fault.message),
                "passing": fault.passing,
                "row_key": new.row_key,
            }
        )
        self._came_from["quarantine"].append(new.file_key)

    def write(self, folder: Path) -> Iterator[tuple[str, Path, int]]:
        """(kind, closed file, rows) of each part of this shard."""
        index = [{name: image[name] for name in IMAGE_INDEX_COLUMNS} for image in self._images]
        for kind, rows in (
            ("images", self._images),
            ("image_index", index),
            ("examples", self._examples),
            ("quarantine", self._quarantine),
        ):
            if rows:
                yield kind, write_rows(_table(rows, kind), kind, folder), len(rows)

    def came_from(self, shard: str) -> list[RowRange]:
        """Which rows of this shard, called `shard`, came from which file."""
        return merged(
            [
                RowRange(file_key, shard, kind, start, start + 1)
                for kind, keys in self._came_from.items()
                for start, file_key in enumerate(keys)
            ]
        )

    def _split(self, row: SourceRow, image_id: str) -> str:
        """The source's own split, else a stable digest of the split group: growth never moves an image."""
        if row.split is not None:
            return row.split
        group = row.split_group or image_id
        position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
        test, val = self._fractions["test"], self._fractions["val"]
        return "test" if position < test else "val" if position < test + val else "train"


def write_rows(table: pa.Table, kind: str, folder: Path) -> Path:
    """A closed Parquet file of one part. Encoded images do not compress; texts do."""
    import pyarrow.parquet as pq

    path = folder / f"{kind}.parquet"
    more = {"row_group_size": IMAGES_PER_ROW_GROUP} if kind == "images" else {}
    with writing_below(folder):
        pq.write_table(table, path, compression="none" if kind == "images" else "zstd", **more)
    return path


def _table(rows: list[dict[str, Any]], kind: str) -> pa.Table:
    import pyarrow as pa

    schemas = {
        "images": images_schema,
        "image_index": image_index_schema,
        "examples": examples_schema,
        "quarantine": quarantine_schema,
    }
    schema = schemas[kind]()
    return pa.table([[row[name] for row in rows] for name in schema.names], schema=schema)


def problem_of(row: SourceRow) -> RowFault | None:
    """Why the row's own fields cannot make an example, or None."""
    try:
        "".join([row.prompt, *row.targets, *row.negatives, row.label or "", row.split_group or ""]).encode()
        "".join(itertools.chain.from_iterable(row.attributes.items())).encode()
        canonical_json(row.numbers)
    except ValueError as error:  # half a surrogate pair, which JSON can spell and no file can hold
        return RowFault("unreadable_row", str(error))
    if row.split is not None and row.split not in SPLITS:
        return RowFault("unknown_split", f"split {row.split!r}; expected one of {', '.join(SPLITS)}")
    if row.task == "classify":
        return None if (row.label or "").strip() else RowFault("no_label", "no class to learn")
    if row.task == "regress":
        return None if row.numbers else RowFault("no_numbers", "no numbers to learn")
    if not any(target.strip() for target in row.targets):
        return RowFault("no_targets", "no text to learn")
    if row.task == "vqa" and not row.prompt.strip():
        return RowFault("empty_prompt", "a question without words")
    return None


def _image(new: NewRow, image_id: str, stored: StoredImage) -> dict[str, Any]:
    assert isinstance(new.row, SourceRow)
    facts = stored.facts
    return {
        "image_id": image_id,
        "bytes": stored.data,
        "format": facts.format,
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "source_uri": _storable(new.row.image.name),
        "phash": facts.phash,
        "split_group": _storable(new.row.split_group or image_id),
    }


def _example(new: NewRow, image_id: str, split: str) -> dict[str, Any]:
    row = new.row
    assert isinstance(row, SourceRow)
    example: dict[str, Any] = {
        "image_id": image_id,
        "task": row.task,
        "prompt": row.prompt,
        "targets": [target for target in row.targets if target.strip()],
        "negatives": list(row.negatives),
        "numbers": list(row.numbers),
        "label": row.label,
        "split": split,
        "source": new.source,
        "weight": new.weight,
        "attributes": sorted(row.attributes.items()),
    }
    return {"example_id": example_id_of(example), **example}


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
