"""What every step needs of a place to keep things."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing tells it, or a write that a killed writer left unfinished."""

    key: str
    size_bytes: int
    modified_at: float
    """Seconds since 1970, by the store's clock."""
    upload_id: str = ""
    """Of an unfinished multipart upload."""


class Store(Protocol):
    """Every method may be repeated: what has happened already does not happen twice.

    Raises PlatformError for a store that cannot be reached after several tries, ConfigError for one that refuses."""

    uri: str

    def exists(self, key: str) -> bool: ...
    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """Write only if nothing is there. False when somebody else was first with other bytes; equal bytes count as
        ours, because a write whose answer was lost finds itself."""

    def write(self, key: str, data: bytes) -> None:
        """Write or replace whole. For journals, which only their own attempt reads."""

    def upload(self, path: Path, key: str, digest: str) -> None:
        """Write or replace by a local file with this sha256. S3 compares it where the file goes up in one piece; a
        reader of the object does in any case."""

    def download(self, key: str, path: Path) -> None:
        """Bring the bytes to a path where nothing is. They may be shared with the store: never write there in place.

        Raises FileNotFoundError where there is no object, OSError where the path cannot be written."""

    def delete(self, prefix: str) -> None:
        """Remove an object, or all objects below a folder."""

    def remove(self, keys: Sequence[str]) -> None:
        """Remove these objects."""

    def objects(self, prefix: str) -> list[StoredObject]:
        """What lies below a folder, with size and age, sorted by key."""

    def unfinished(self) -> list[StoredObject]:
        """What killed writers left and no reader sees: temporary files, multipart uploads."""

    def discard(self, left: StoredObject) -> None:
        """Remove one of `unfinished()`."""

    def list(self, prefix: str) -> list[str]:
        """Keys below a folder, sorted. For logs and reports; completeness is a manifest's word, never a listing's."""
