"""Objects under one URI: a local folder or an S3 prefix. The only file that knows fsspec and s3fs.

Keys are relative POSIX paths. An object is written whole or not at all: local writes go through a synced
temporary file and a link, S3 writes through one PUT. `create` is conditional (one winner among any number of racers).
"""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlparse

from infra.errors import ConfigError, PlatformError

NUM_PROBE_RACERS = 16
Result = TypeVar("Result")


class Store(Protocol):
    """What every step needs of a place to keep things."""

    uri: str

    def exists(self, key: str) -> bool: ...
    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """Write only if nothing is there. False when somebody else was first."""

    def write(self, key: str, data: bytes) -> None:
        """Write or replace whole. For journals, which only their own attempt reads."""

    def upload(self, path: Path, key: str) -> None: ...
    def download(self, key: str, path: Path) -> None: ...
    def delete(self, prefix: str) -> None: ...
    def list(self, prefix: str) -> list[str]:
        """Keys below a folder, sorted. For logs and reports; completeness is a manifest's word, never a listing's."""


class LocalStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.uri = self.folder.as_uri()

    def exists(self, key: str) -> bool:
        return (self.folder / key).is_file()

    def read(self, key: str) -> bytes | None:
        try:
            return (self.folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def create(self, key: str, data: bytes) -> bool:
        with self._temporary(key) as temporary:
            temporary.fill(lambda file: file.write(data))
            try:
                os.link(temporary.path, self.folder / key)
            except FileExistsError:
                return False
            except OSError as error:
                raise _not_writable(self.uri, error) from error
        return True

    def write(self, key: str, data: bytes) -> None:
        with self._temporary(key) as temporary:
            temporary.fill(lambda file: file.write(data))
            temporary.path.replace(self.folder / key)

    def upload(self, path: Path, key: str) -> None:
        import shutil

        with self._temporary(key) as temporary, path.open("rb") as source:
            temporary.fill(lambda file: shutil.copyfileobj(source, file, 1 << 20))
            temporary.path.replace(self.folder / key)

    def download(self, key: str, path: Path) -> None:
        import shutil

        shutil.copyfile(self.folder / key, path)

    def delete(self, prefix: str) -> None:
        import shutil

        target = self.folder / prefix
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[str]:
        root = self.folder / prefix
        found = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".tmp-"))
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def _temporary(self, key: str) -> "_TemporaryFile":
        try:
            (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(self.uri, error) from error
        return _TemporaryFile((self.folder / key).parent / f".tmp-{uuid.uuid4().hex}", self.uri)


class _TemporaryFile:
    """A synced file beside its final place, gone at the end unless it was moved."""

    def __init__(self, path: Path, uri: str) -> None:
        self.path = path
        self.uri = uri

    def __enter__(self) -> "_TemporaryFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)

    def fill(self, write: Callable[[Any], object]) -> None:
        try:
            with self.path.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _not_writable(self.uri, error) from error


class S3Store:
    """S3 by s3fs. Credentials and endpoint come from the usual AWS variables, never from a recipe."""

    def __init__(self, uri: str) -> None:
        import s3fs

        self.uri = uri.rstrip("/")
        self._root = self.uri.removeprefix("s3://")
        self._fs = s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL"),
        )

    def exists(self, key: str) -> bool:
        return bool(self._call(lambda: self._fs.exists(self._path(key))))

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self._call(lambda: self._fs.cat_file(self._path(key))))
        except FileNotFoundError:
            return None

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._put(lambda: self._fs.pipe_file(self._path(key), data, mode="create"))
        except FileExistsError:
            # A retried PUT whose first answer was lost finds its own object.
            return self.read(key) == data
        return True

    def write(self, key: str, data: bytes) -> None:
        self._put(lambda: self._fs.pipe_file(self._path(key), data))

    def upload(self, path: Path, key: str) -> None:
        self._put(lambda: self._fs.put_file(str(path), self._path(key)))

    def download(self, key: str, path: Path) -> None:
        self._call(lambda: self._fs.get_file(self._path(key), str(path)))

    def delete(self, prefix: str) -> None:
        try:
            self._call(lambda: self._fs.rm(self._path(prefix), recursive=True))
        except FileNotFoundError:
            return

    def list(self, prefix: str) -> list[str]:
        try:
            found = self._call(lambda: self._fs.find(self._path(prefix)))
        except FileNotFoundError:
            return []
        return sorted(path.removeprefix(self._root + "/") for path in found)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _put(self, action: Callable[[], object]) -> None:
        try:
            self._call(action)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.uri}: cannot write ({error}); expected a bucket that exists. "
                "Create the bucket or pass another place with --store."
            ) from error

    def _call(self, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:  # every transport's own classes: botocore, aiohttp, OSError
            raise PlatformError(
                f"{self.uri}: the store answered {type(error).__name__}: {error}; expected it to be reachable. "
                "Check AWS_ENDPOINT_URL, the AWS credentials and the bucket, then start again: finished work is kept."
            ) from error


def open_store(uri: str) -> Store:
    """The store at a path, `file://` or `s3://` URI. Others are refused: their `create` is exists-then-write."""
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        return S3Store(uri)
    if parsed.scheme in ("", "file"):
        return LocalStore(Path(unquote(parsed.path) if parsed.scheme else uri))
    raise ConfigError(
        f"store {uri!r} has the scheme {parsed.scheme!r}; expected a local path or s3://bucket/prefix. "
        "Only these create objects conditionally, which is what keeps two writers apart."
    )


def probe(store: Store) -> None:
    """Refuse a store that is not writable, or whose conditional create lets more than one racer win."""
    key = f".probe/{uuid.uuid4().hex}"
    with ThreadPoolExecutor(NUM_PROBE_RACERS) as pool:
        wins = sum(pool.map(lambda racer: store.create(key, str(racer).encode()), range(NUM_PROBE_RACERS)))
    store.delete(key)
    if wins != 1:
        raise ConfigError(
            f"{store.uri}: {wins} of {NUM_PROBE_RACERS} racers created the same object; expected exactly one. "
            "This store ignores conditional writes (If-None-Match) and cannot keep two runs apart: use another."
        )


def _not_writable(uri: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{uri}: cannot write ({error.strerror or error}); expected a writable store. "
        "Fix the folder's permissions or pass another place with --store."
    )
