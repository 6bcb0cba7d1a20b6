"""Columns of every Parquet file Frostline writes. A change here raises the writing step's version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.digests import digest_json

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "val", "test")


def images_schema() -> pa.Schema:
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


def examples_schema() -> pa.Schema:
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
        ]
    )


def quarantine_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("source_uri", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
            ("reason", pa.string()),  # a class: `unreadable_image`, `missing_file`, `no_targets`, `empty_prompt`
            ("message", pa.string()),
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
            ("control_prediction", pa.string()),  # the same prompt with another example's image
            ("control_image_id", pa.string()),
            ("scores", pa.map_(pa.string(), pa.float64())),
            ("control_scores", pa.map_(pa.string(), pa.float64())),
            ("attributes", pa.map_(pa.string(), pa.string())),
        ]
    )


def example_id_of(row: dict[str, Any]) -> str:
    """Digest of what the example asks and answers, and of its image."""
    return digest_json(
        [row["image_id"], row["task"], row["prompt"], row["targets"], row["numbers"], row["label"], row["negatives"]]
    )
