"""What a dataset holds: digests of its rows, and the figures that the manifest and the report show."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from infra.digests import digest_bytes, digest_json
from infra.outputs import Part
from infra.part_cache import PartCache


class Statistics:
    """Read from the committed parts, so that a resumed ingest counts the same as an undisturbed one."""

    def __init__(self, parts: Sequence[Part], cache: PartCache) -> None:
        import pyarrow.parquet as pq

        self._digests: dict[str, list[str]] = defaultdict(list)
        self._examples: Counter[tuple[str, str]] = Counter()
        self._images_of: dict[str, set[str]] = defaultdict(set)
        self._target_words: list[int] = []
        self._sizes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        for part in parts:
            table = pq.read_table(cache.path("ingest", part), columns=_COLUMNS.get(part.kind))
            for row in table.to_pylist():
                getattr(self, f"_take_{part.kind}")(row)

    @property
    def row_digests(self) -> list[str]:
        return [digest for digests in self._digests.values() for digest in digests]

    def split_digests(self, splits: Sequence[str]) -> list[str]:
        return [digest for split in splits for digest in self._digests[split]]

    def summary(self) -> dict[str, Any]:
        words = sorted(self._target_words)
        return {
            "examples": {f"{task}/{split}": count for (task, split), count in sorted(self._examples.items())},
            "images": {split: len(images) for split, images in sorted(self._images_of.items())},
            "image_sizes_px": dict(self._sizes.most_common(10)),
            "target_words": {"min": words[0], "median": words[len(words) // 2], "max": words[-1]},
            "quarantined_by_reason": dict(self._reasons),
        }

    def _take_images(self, row: dict[str, Any]) -> None:
        self._sizes[f"{row['width_px']}x{row['height_px']}"] += 1
        self._digests["images"].append(digest_bytes(f"{row['image_id']} {row['split_group']}".encode()))

    def _take_examples(self, row: dict[str, Any]) -> None:
        self._examples[(row["task"], row["split"])] += 1
        self._images_of[row["split"]].add(row["image_id"])
        self._target_words += [len(target.split()) for target in row["targets"]]
        self._digests[row["split"]].append(digest_json(row))

    def _take_quarantine(self, row: dict[str, Any]) -> None:
        self._reasons[row["reason"]] += 1


_COLUMNS = {"images": ["image_id", "split_group", "width_px", "height_px"]}
"""Examples and quarantine are read whole."""
