"""Files beside an annotation file: listing them, and joining names that came from outside to a folder."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from infra.errors import ConfigError


def file_facts(path: Path, name: str) -> dict[str, Any]:
    """Name, size and modification time: what changes when the file does. Raises ConfigError where it is missing."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read ({error.strerror}); expected {name}. Check the path in the recipe's ingest.sources."
        ) from error
    return {"name": name, "size_bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def folder_facts(folder: Path) -> list[dict[str, Any]]:
    """Facts of every file below the folder, sorted by name."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected images. Check the path in the recipe's ingest.sources.")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [file_facts(path, path.relative_to(folder).as_posix()) for path in paths]


def reader(folder: Path, name: str) -> Callable[[], bytes]:
    """Reads `folder/name` when called; a name that would leave the folder raises OSError, like a missing file."""

    def read() -> bytes:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise PermissionError(f"{name!r} leaves the image folder")
        try:
            return (folder / name).read_bytes()
        except ValueError as error:  # a NUL, or half a surrogate pair
            raise FileNotFoundError(f"{name!r} is no file name") from error

    return read
