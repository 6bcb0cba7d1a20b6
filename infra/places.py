"""Other people's files, to be read only: a local path, `s3://bucket/prefix` or `hf://datasets/org/name@commit/path`.

Beside infra/store the only file that knows s3fs and the hub's file system. Credentials and endpoints come from the
usual variables (AWS_*, HF_TOKEN), never from a recipe.
"""

import functools
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from infra.addresses import without_password
from infra.errors import ConfigError, FrostlineError, PlatformError
from infra.store.s3 import S3Settings

BLOCK_BYTES = 4 * 2**20
"""How much a remote file reads ahead: enough for a stream, little for the footer of a Parquet file."""
BUFFER_BYTES = 128 * 2**10
_COMMIT_URI = re.compile(r"hf://datasets/[\w.-]+/[\w.-]+@[0-9a-f]{40}(/.*)?")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PlaceFile:
    """A file as a listing shows it."""

    name: str
    """Relative to the folder that was listed, as a POSIX path; the last component for a file asked for by itself."""
    size_bytes: int
    version: str
    """Changes when the bytes do: the modification time, the etag, the blob of the commit."""


class Place(Protocol):
    """A folder or a file. Raises ConfigError for what is not there and PlatformError where the network fails."""

    uri: str

    def at(self, name: str) -> "Place":
        """A file or folder below. `name` comes from a listing or from a recipe, never from the data."""

    def is_folder(self) -> bool: ...
    def files(self) -> list[PlaceFile]:
        """Every file below this folder, sorted by name."""

    def facts(self) -> PlaceFile:
        """This one file."""

    def open(self) -> BinaryIO:
        """This file as a seekable stream."""

    def read(self) -> bytes:
        """This file whole."""


def is_remote(uri: str) -> bool:
    return "://" in uri


def open_place(uri: str) -> Place:
    """Raises ConfigError for a URI of another kind, or for a hub revision that is no commit."""
    if not is_remote(uri):
        return LocalPlace(Path(uri).absolute())
    if uri.startswith("s3://") and uri.removeprefix("s3://").strip("/"):
        return RemotePlace(_s3(), uri.rstrip("/"))
    if _COMMIT_URI.fullmatch(uri):
        return RemotePlace(_hub(), uri.rstrip("/"))
    raise ConfigError(
        f"{without_password(uri)!r} was found; expected a local path, s3://bucket/prefix or "
        "hf://datasets/org/name@commit/path with a commit of 40 hexadecimal digits, because a branch would give other "
        "rows another day. Change this path in the recipe."
    )


class LocalPlace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = str(path)

    def at(self, name: str) -> "LocalPlace":
        return LocalPlace(self.path / name)

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def files(self) -> list[PlaceFile]:
        try:
            return sorted(_below(self.path, ""), key=lambda file: file.name)
        except OSError as error:
            raise _missing(self.uri, "folder", error) from error

    def facts(self) -> PlaceFile:
        try:
            found = self.path.stat()
        except (OSError, ValueError) as error:
            raise _missing(self.uri, "file", error) from error
        if not stat.S_ISREG(found.st_mode):
            raise _missing(self.uri, "file", OSError("it is a folder or a device"))
        return PlaceFile(self.path.name, found.st_size, _version_of(found))

    def open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except (OSError, ValueError) as error:
            raise _missing(self.uri, "file", error) from error

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()


def _version_of(found: os.stat_result) -> str:
    """With the size, since tools that build archives and images set every time to the same."""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _below(folder: Path, prefix: str) -> Iterator[PlaceFile]:
    """Regular files at any depth; links to files are followed, as the hub's local cache needs, links to folders not."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path), name + "/")
            elif entry.is_file():
                found = entry.stat()
                yield PlaceFile(name, found.st_size, _version_of(found))


class RemotePlace:
    """S3 or the hub, through their fsspec file systems; those retry by themselves."""

    def __init__(self, fs: Any, uri: str) -> None:
        self.uri = uri
        self._fs = fs
        self._path = uri.partition("://")[2]

    def at(self, name: str) -> "RemotePlace":
        return RemotePlace(self._fs, f"{self.uri}/{name}")

    def is_folder(self) -> bool:
        return bool(_told(self.uri, "folder", lambda: self._fs.isdir(self._path)))

    def files(self) -> list[PlaceFile]:
        found = _told(self.uri, "folder", lambda: self._fs.find(self._path, detail=True))
        root = self._path + "/"
        files = [
            _place_file(name.removeprefix(root), facts)
            for name, facts in found.items()
            if name.startswith(root) and not name.endswith("/")
        ]
        if not files:
            raise _missing(self.uri, "folder", FileNotFoundError("no files there"))
        return sorted(files, key=lambda file: file.name)

    def facts(self) -> PlaceFile:
        found = _told(self.uri, "file", lambda: self._fs.info(self._path))
        if found["type"] != "file":
            raise _missing(self.uri, "file", IsADirectoryError("it is a folder"))
        return _place_file(self._path.rpartition("/")[2], found)

    def open(self) -> BinaryIO:
        # `info` is asked for by s3fs, which then refuses a file that changes while it is being read.
        options = {"block_size": BLOCK_BYTES, "cache_type": "readahead"}
        file = _told(self.uri, "file", lambda: self._fs.open(self._path, "rb", **options))
        return io.BufferedReader(_RemoteFile(file, self.uri), BUFFER_BYTES)

    def read(self) -> bytes:
        return bytes(_told(self.uri, "file", lambda: self._fs.cat_file(self._path)))


class _RemoteFile(io.RawIOBase):
    """A remote stream whose failures are Frostline's. Buffered by Python: fsspec's own `readline` knows no limit."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = _told(self._uri, "file", lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


@functools.cache
def _ask_again_for_wrong_bytes() -> None:
    """Where S3 keeps a checksum of an object, botocore compares it; s3fs takes that for a lasting error."""
    from botocore.exceptions import FlexibleChecksumError
    from s3fs.core import add_retryable_error

    add_retryable_error(FlexibleChecksumError)


def _s3() -> Any:
    import s3fs

    _ask_again_for_wrong_bytes()
    patience = S3Settings()
    # One instance per endpoint and thread, kept by fsspec: a new one loads botocore's tables again.
    return s3fs.S3FileSystem(
        use_listings_cache=False,
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL"),
        config_kwargs={
            "connect_timeout": patience.connect_timeout_seconds,
            "read_timeout": patience.read_timeout_seconds,
        },
    )


def _hub() -> Any:
    from huggingface_hub import HfFileSystem, constants

    return HfFileSystem(endpoint=constants.ENDPOINT)  # its listings are kept: those of a commit do not change


def _place_file(name: str, facts: dict[str, Any]) -> PlaceFile:
    version = facts.get("ETag") or facts.get("blob_id")
    assert version, f"{name}: neither an etag nor a blob id in {sorted(facts)}"
    return PlaceFile(name, facts["size"], str(version).strip('"'))


def _told(uri: str, expected: str, action: Callable[[], Result]) -> Result:
    try:
        return action()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise _missing(uri, expected, error) from error
    except FrostlineError:
        raise
    except Exception as error:  # every transport's own classes: botocore, aiohttp, httpx, OSError
        raise PlatformError(
            f"{uri}: {type(error).__name__}: {_in_one_line(error)}; expected it to be readable. "
            "Check the network, AWS_ENDPOINT_URL and the credentials, then start again: finished work is kept."
        ) from error


def _missing(uri: str, expected: str, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or _in_one_line(error)
    return ConfigError(
        f"{uri}: cannot read ({reason}); expected a {expected} that can be read. Check the path in the recipe."
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(without_password(str(error)).split())
