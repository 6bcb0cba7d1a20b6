"""Columns of every Parquet file Frostline writes. A change here raises the writing step's version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.digests import digest_json

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "val", "test")
IMAGE_INDEX_COLUMNS = ("image_id", "format", "width_px", "height_px", "phash")
IMAGES_PER_ROW_GROUP = 16
"""Of an image part: a reader holds one row group in memory, however large the shard."""


def images_schema() -> pa.Schema:
    """An image and its source bytes, or those of its re-encoding where the recipe asks for one."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image_id", pa.string()),  # sha256 of the source bytes
            ("bytes", pa.binary()),
            ("format", pa.string()),
            ("width_px", pa.int32()),
            ("height_px", pa.int32()),
            ("source_uri", pa.string()),
            ("phash", pa.string()),
            ("split_group", pa.string()),
        ]
    )


def image_index_schema() -> pa.Schema:
    """The images of one `images` part in its order, without their bytes: what most readers need of them."""
    import pyarrow as pa

    return pa.schema([field for field in images_schema() if field.name in IMAGE_INDEX_COLUMNS])


def examples_schema() -> pa.Schema:
    """Every row of a shard as it was read; `masked` parts list those that do not count."""
    import pyarrow as pa

    return pa.schema(
        [
            ("example_id", pa.string()),
            ("image_id", pa.string()),
            ("task", pa.string()),
            ("prompt", pa.string()),
            ("targets", pa.list_(pa.string())),
            ("negatives", pa.list_(pa.string())),
            ("numbers", pa.list_(pa.float64())),
            ("label", pa.string()),
            ("split", pa.string()),
            ("source", pa.string()),
            ("weight", pa.float64()),
            ("attributes", pa.map_(pa.string(), pa.string())),
            ("row_digest", pa.binary(32)),  # of everything above
            ("row_key", pa.binary(32)),  # of the source row and where its image is: known again without reading it
            ("image_key", pa.binary(32)),  # of where the image is and its version there
        ]
    )


def quarantine_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("source_uri", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
            ("reason", pa.string()),  # a class: `unreadable_image`, `missing_file`, `no_targets`, `empty_prompt` ...
            ("message", pa.string()),
            ("passing", pa.bool_()),  # tried again at the next ingest
            ("row_key", pa.binary(32)),
        ]
    )


def masked_schema() -> pa.Schema:
    """Examples that are stored and do not count: exact duplicates, and rows of images claimed for two splits."""
    import pyarrow as pa

    return pa.schema(
        [
            ("shard", pa.string()),
            ("row", pa.int64()),  # position in the shard's `examples` part
            ("example_id", pa.string()),
            ("reason", pa.string()),  # `duplicate`, `split_conflict`
        ]
    )


def excluded_schema() -> pa.Schema:
    """Train and val images that look like a test image; training skips them."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image_id", pa.string()),
            ("split", pa.string()),
            ("near_image_id", pa.string()),  # the nearest test image
            ("distance", pa.int32()),  # bits of the perceptual hash that differ
        ]
    )


def files_schema() -> pa.Schema:
    """Which stored rows came from which source file: rows start to stop of one part of a shard."""
    import pyarrow as pa

    return pa.schema(
        [
            ("file_key", pa.binary(32)),
            ("shard", pa.string()),
            ("kind", pa.string()),  # `examples` or `quarantine`
            ("start", pa.int64()),
            ("stop", pa.int64()),
        ]
    )


def features_schema(num_patches: int, vision_width: int) -> pa.Schema:
    """Rows of float16[P, V] as fixed-size binary. Nothing is null: the file holds bare values, to be read in place."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("view", pa.string(), nullable=False),  # `original`, `augmented-1`, ...
            pa.field("features", pa.binary(num_patches * vision_width * 2), nullable=False),
        ],
        metadata={"num_patches": str(num_patches), "vision_width": str(vision_width), "dtype": "float16"},
    )


def feature_index_schema() -> pa.Schema:
    """Beside each feature part: which image and view each of its rows is, in the same order."""
    import pyarrow as pa

    return pa.schema([pa.field("image_id", pa.string(), nullable=False), pa.field("view", pa.string(), nullable=False)])


def predictions_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("example_id", pa.string()),
            ("image_id", pa.string()),
            ("task", pa.string()),
            ("prompt", pa.string()),
            ("references", pa.list_(pa.string())),
            ("prediction", pa.string()),
            ("confidence", pa.float64()),  # the text's probability; null where none is given
            ("control_prediction", pa.string()),  # the same prompt with another example's image
            ("control_image_id", pa.string()),
            ("blind_prediction", pa.string()),  # the same prompt with the mean prefix
            ("scores", pa.map_(pa.string(), pa.float64())),
            ("control_scores", pa.map_(pa.string(), pa.float64())),
            ("blind_scores", pa.map_(pa.string(), pa.float64())),
            ("slices", pa.map_(pa.string(), pa.string())),  # slice → the example's value in it
        ]
    )


def replies_schema(few_shot: bool) -> pa.Schema:
    """What was asked, and the reply: a row each."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image_id", pa.string()),
            ("prompt", pa.string()),
            ("kind", pa.string()),
            ("target", pa.string()),
            ("corruption", pa.string()),
            *([("shots", pa.string())] if few_shot else []),  # digest of what was shown before
            ("text", pa.string()),
            ("log_likelihood", pa.float64()),
            ("num_tokens", pa.int64()),
            ("numbers", pa.list_(pa.float64())),
        ]
    )


def example_id_of(row: dict[str, Any]) -> str:
    """Digest of what the example asks and answers, and of its image."""
    return digest_json(
        [row["image_id"], row["task"], row["prompt"], row["targets"], row["numbers"], row["label"], row["negatives"]]
    )
