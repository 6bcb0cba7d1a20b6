"""Rows → one shard's Parquet files. Keeps what must be remembered across shards: ids, splits and counts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.images import ImageFacts, inspect
from data_prep.schemas import SPLITS, example_id_of, examples_schema, images_schema, quarantine_schema
from data_prep.sources.base import BadRow, SourceRow
from infra.digests import canonical_json, digest_bytes
from infra.errors import DataError
from infra.outputs import Part
from infra.part_cache import PartCache


class ShardWriter:
    """Collects rows of one shard at a time. rows_in = examples + duplicates + quarantined, always."""

    def __init__(self, val_fraction: float, test_fraction: float) -> None:
        self.rows_in = 0
        self.duplicates = 0
        self.first_problem = ""
        self._fractions = (test_fraction, val_fraction)
        self._split_of: dict[str, str] = {}
        self._example_ids: set[str] = set()
        self._clear()

    def _clear(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._examples: list[dict[str, Any]] = []
        self._quarantine: list[dict[str, Any]] = []

    @property
    def num_images(self) -> int:
        return len(self._images)

    @property
    def has_rows(self) -> bool:
        return bool(self._images or self._examples or self._quarantine)

    def add(self, row: SourceRow) -> None:
        """Take one row in: as an example, as an exact duplicate, or into quarantine with a reason."""
        try:
            data = row.image()
        except OSError as error:
            return self.quarantine(_bad(row, "missing_file", f"{row.image_uri}: {error.strerror or error}"))
        if problem := _problem_of(row):
            return self.quarantine(_bad(row, *problem))
        image_id = digest_bytes(data)
        facts: ImageFacts | None = None
        if image_id not in self._split_of:
            try:
                facts = inspect(data)
            except DataError as error:
                return self.quarantine(_bad(row, "unreadable_image", f"{row.image_uri}: {error}"))
        split = self._split(row, image_id)
        if self._split_of.get(image_id, split) != split:
            was = self._split_of[image_id]
            return self.quarantine(_bad(row, "split_conflict", f"{row.image_uri} is in {was} and in {split}"))
        try:
            example = _example(row, image_id, split)
            canonical_json(example)
        except ValueError as error:  # half a surrogate pair, which JSON can spell and no file can hold
            return self.quarantine(_bad(row, "unreadable_row", str(error)))
        self.rows_in += 1
        if example["example_id"] in self._example_ids:
            self.duplicates += 1
            return None
        if facts is not None:
            self._images.append(_image(row, image_id, data, facts))
            self._split_of[image_id] = split
        self._example_ids.add(example["example_id"])
        self._examples.append(example)
        return None

    def quarantine(self, row: BadRow) -> None:
        self.rows_in += 1
        self.first_problem = self.first_problem or f"{row.source} row {row.row}: {row.message}"
        self._quarantine.append(
            {
                "source_uri": _storable(row.uri),
                "source": row.source,
                "row": row.row,
                "reason": row.reason,
                "message": _storable(row.message),
            }
        )

    def write(self, folder: Path) -> Iterator[tuple[str, Path, int]]:
        """(kind, closed file, rows) of what was collected since the last call; then start the next shard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for kind, rows, schema in (
            ("images", self._images, images_schema()),
            ("examples", self._examples, examples_schema()),
            ("quarantine", self._quarantine, quarantine_schema()),
        ):
            if rows:
                path = folder / f"{kind}.parquet"
                # Encoded images do not compress; texts do.
                pq.write_table(
                    pa.Table.from_pylist(rows, schema), path, compression="none" if kind == "images" else "zstd"
                )
                yield kind, path, len(rows)
        self._clear()

    def restore(self, parts: list[Part], rows_in: int, duplicates: int, cache: PartCache) -> None:
        """Remember what an earlier attempt's shard held, as if its rows had just been added."""
        import pyarrow.parquet as pq

        self.rows_in = rows_in
        self.duplicates = duplicates
        for part in parts:
            if part.kind == "examples":
                table = pq.read_table(cache.path("ingest", part), columns=["example_id", "image_id", "split"])
                self._example_ids.update(table.column("example_id").to_pylist())
                pairs = zip(table.column("image_id").to_pylist(), table.column("split").to_pylist(), strict=True)
                self._split_of.update(pairs)
            elif part.kind == "quarantine" and not self.first_problem:
                first = pq.read_table(cache.path("ingest", part)).slice(0, 1).to_pylist()[0]
                self.first_problem = f"{first['source']} row {first['row']}: {first['message']}"

    def _split(self, row: SourceRow, image_id: str) -> str:
        """The source's own split, else a stable digest of the split group: growth never moves an image."""
        if row.split is not None:
            return row.split
        group = row.split_group or image_id
        position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
        test, val = self._fractions
        return "test" if position < test else "val" if position < test + val else "train"


def _image(row: SourceRow, image_id: str, data: bytes, facts: ImageFacts) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "bytes": data,
        "format": facts.format,
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "source_uri": row.image_uri,
        "phash": facts.phash,
        "split_group": row.split_group or image_id,
    }


def _example(row: SourceRow, image_id: str, split: str) -> dict[str, Any]:
    example: dict[str, Any] = {
        "image_id": image_id,
        "task": row.task,
        "prompt": row.prompt,
        "targets": [target for target in row.targets if target.strip()],
        "negatives": list(row.negatives),
        "numbers": list(row.numbers),
        "label": row.label,
        "split": split,
        "source": row.source,
        "weight": 1.0,
        "attributes": sorted(row.attributes.items()),
    }
    return {"example_id": example_id_of(example), **example}


def _problem_of(row: SourceRow) -> tuple[str, str] | None:
    """(reason, message) where the row's own fields cannot make an example."""
    if not any(target.strip() for target in row.targets):
        return "no_targets", "no text to learn"
    if row.task == "vqa" and not row.prompt.strip():
        return "empty_prompt", "a question without words"
    if row.split is not None and row.split not in SPLITS:
        return "unknown_split", f"split {row.split!r}; expected one of {', '.join(SPLITS)}"
    return None


def _bad(row: SourceRow, reason: str, message: str) -> BadRow:
    return BadRow(row.row, row.source, row.image_uri, reason, message)


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
