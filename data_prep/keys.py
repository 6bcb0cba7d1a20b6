"""Names by which source files, rows and images are known again without being read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from data_prep.sources import PATH_FIELDS, BadRow, FileFacts, ImageRef, SourceConfig, SourceRow


def file_key(config: SourceConfig, file: FileFacts, nth: int) -> bytes:
    """Of a source file at this version, read as this source reads it. `nth` tells apart a file that is listed again."""
    how = config.model_dump(mode="json", exclude=PATH_FIELDS)
    return _digest([how, file.uri, file.size_bytes, file.version, nth])


def image_key(image: ImageRef) -> bytes:
    return _digest([image.uri, image.version])


def row_key(row: SourceRow | BadRow, source: str, weight: float) -> bytes:
    """Of everything that decides what becomes of the row, but for its position in the file."""
    if isinstance(row, BadRow):
        return _digest([source, row.name, row.reason, row.message])
    found = {name: value for name, value in vars(row).items() if name not in ("row", "image")}
    found["attributes"] = sorted(row.attributes.items())
    return _digest([source, weight, row.image.uri, row.image.version, found])


def _digest(value: Any) -> bytes:
    # ASCII, since a row may hold half a surrogate pair, which no other encoding can.
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()
