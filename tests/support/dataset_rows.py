"""Rows of a source of noise, and rows of a committed dataset."""

from typing import Any

import pyarrow.parquet as pq

from infra.outputs import Manifest
from infra.workspace import Workspace


def captioned(numbers: range) -> list[dict[str, Any]]:
    return [{"image": f"{number}.png", "captions": [f"picture {number}", f"noise {number}"]} for number in numbers]


def rows_of(manifest: Manifest, kind: str, workspace: Workspace) -> list[dict[str, Any]]:
    return [
        row
        for part in manifest.parts_of(kind)
        for row in pq.read_table(workspace.cache.path("ingest", part)).to_pylist()
    ]
