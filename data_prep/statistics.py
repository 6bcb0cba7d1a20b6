"""The figures of a dataset that the manifest and the report show, read from its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_prep.merge import COUNTS, SPLIT_CONFLICT, Rows
from data_prep.schemas import SPLITS
from data_prep.shards import Shard, read_columns
from infra.part_cache import PartCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def statistics(shards: Sequence[Shard], rows: Rows, verdict_N: NDArray[np.int8], cache: PartCache) -> dict[str, Any]:
    """Of the examples that count, and of the images and quarantined rows of all shards."""
    import numpy as np

    examples: Counter[tuple[str, str]] = Counter()
    words: Counter[int] = Counter()
    sizes: Counter[str] = Counter()
    reasons = quarantined_by_reason(shards, verdict_N, cache)
    number = 0
    for shard in shards:
        if "examples" in shard.parts:
            counts = verdict_N[rows.shard_N == number] == COUNTS
            _count_examples(shard, counts, examples, words, cache)
            number += 1
        if "image_index" in shard.parts:
            table = read_columns(shard.parts["image_index"], cache, ["width_px", "height_px"])
            sizes.update(f"{row['width_px']}x{row['height_px']}" for row in table.to_pylist())
    found = {split: rows.image_id_N[(verdict_N == COUNTS) & (rows.split_N == n)] for n, split in enumerate(SPLITS)}
    return {
        "examples": {f"{task}/{split}": count for (task, split), count in sorted(examples.items())},
        "images": {split: len(np.unique(ids)) for split, ids in found.items() if len(ids)},
        "image_sizes_px": dict(sizes.most_common(10)),
        "target_words": _spread(words),
        "quarantined_by_reason": dict(sorted(reasons.items())),
    }


def quarantined_by_reason(shards: Sequence[Shard], verdict_N: NDArray[np.int8], cache: PartCache) -> Counter[str]:
    """Quarantined rows, and rows of images that are claimed for two splits."""
    reasons: Counter[str] = Counter()
    for shard in shards:
        if "quarantine" in shard.parts:
            reasons.update(read_columns(shard.parts["quarantine"], cache, ["reason"]).column(0).to_pylist())
    conflicts = int((verdict_N == SPLIT_CONFLICT).sum())
    return reasons + Counter({"split_conflict": conflicts})


def num_passing(shards: Sequence[Shard], cache: PartCache) -> int:
    """Quarantined rows that the next ingest tries again."""
    parts = [shard.parts["quarantine"] for shard in shards if "quarantine" in shard.parts]
    return sum(sum(read_columns(part, cache, ["passing"]).column(0).to_pylist()) for part in parts)


def told(reasons: Mapping[str, int]) -> str:
    """`45 truncated, 3 too_many_pixels`: the most frequent first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda one: -one[1]))


def first_problem(shards: Sequence[Shard], cache: PartCache) -> str:
    """The first quarantined row, in words."""
    for shard in shards:
        if "quarantine" in shard.parts:
            first = read_columns(shard.parts["quarantine"], cache).slice(0, 1).to_pylist()[0]
            where = f"{first['source']} row {first['row']}"
            named = "" if first["source_uri"] in first["message"] else f" ({first['source_uri']})"
            return f"{where}{named}: {first['message'].rstrip('.')}"
    return "an image that is claimed for two splits"


def _count_examples(
    shard: Shard,
    counts: NDArray[np.bool_],
    examples: Counter[tuple[str, str]],
    words: Counter[int],
    cache: PartCache,
) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_columns(shard.parts["examples"], cache, ["task", "split", "targets"]).filter(pa.array(counts))
    examples.update(zip(table.column("task").to_pylist(), table.column("split").to_pylist(), strict=True))
    targets = pc.list_flatten(table.column("targets"))
    words.update(pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(targets))).to_pylist())


def _spread(words: Counter[int]) -> dict[str, int]:
    """Smallest, median and largest; zeros where there is nothing to count."""
    total, seen, median = sum(words.values()), 0, 0
    for length in sorted(words):
        if seen <= total // 2:
            median = length
        seen += words[length]
    return {"min": min(words, default=0), "median": median, "max": max(words, default=0)}
