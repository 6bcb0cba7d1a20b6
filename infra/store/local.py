"""A store in a local folder."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from infra.disk import not_writable, sync_folder
from infra.errors import PlatformError
from infra.store.protocol import StoredObject

TEMPORARY = ".tmp-"
NUM_TRIES = 20
"""Another process may delete the folder of a finished attempt between our making it and writing into it."""


class LocalStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.uri = self.folder.as_uri()

    def exists(self, key: str) -> bool:
        return (self.folder / key).is_file()

    def read(self, key: str) -> bytes | None:
        try:
            return (self.folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(key, error) from error

    def create(self, key: str, data: bytes) -> bool:
        return self._publish(key, lambda file: file.write(data), _link) or self.read(key) == data

    def write(self, key: str, data: bytes) -> None:
        self._publish(key, lambda file: file.write(data), _replace)

    def upload(self, path: Path, key: str, digest: str) -> None:  # noqa: ARG002  no network in between
        with path.open("rb") as source:

            def fill(file: IO[bytes]) -> None:
                source.seek(0)
                shutil.copyfileobj(source, file, 1 << 20)

            self._publish(key, fill, _replace)

    def download(self, key: str, path: Path) -> None:
        source = self.folder / key
        if not source.is_file():
            raise FileNotFoundError(source)
        try:
            os.link(source, path)  # a copy would cost as much as the digest
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, path)

    def delete(self, prefix: str) -> None:
        target = self.folder / prefix
        try:
            with suppress(IsADirectoryError):  # tried instead of looked up: a writer may make the folder in between
                target.unlink(missing_ok=True)
            for folder, _, names in os.walk(target, topdown=False):
                for name in names:
                    Path(folder, name).unlink(missing_ok=True)
                with suppress(OSError):  # gone already, or somebody writes there again
                    Path(folder).rmdir()
        except NotADirectoryError:
            return
        except OSError as error:
            raise not_writable(self.uri, error, "--store") from error

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def objects(self, prefix: str) -> list[StoredObject]:
        files = (path for path in self._files(prefix) if not path.name.startswith(TEMPORARY))
        return sorted(self._facts(files), key=lambda found: found.key)

    def unfinished(self) -> list[StoredObject]:
        return list(self._facts(path for path in self._files("") if path.name.startswith(TEMPORARY)))

    def discard(self, left: StoredObject) -> None:
        self.delete(left.key)

    def list(self, prefix: str) -> list[str]:
        return [found.key for found in self.objects(prefix)]

    def _files(self, prefix: str) -> Iterator[Path]:
        def refused(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise self._unreadable(prefix, error) from error

        for folder, _, names in os.walk(self.folder / prefix, onerror=refused):
            yield from (Path(folder, name) for name in names)

    def _facts(self, files: Iterator[Path]) -> Iterator[StoredObject]:
        for path in files:
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            yield StoredObject(path.relative_to(self.folder).as_posix(), facts.st_size, facts.st_mtime)

    def _publish(self, key: str, fill: Callable[[Any], object], place: Callable[[Path, Path], bool]) -> bool:
        """Fill a synced file beside its final place and put it there. False where `place` found it taken."""
        target = self.folder / key
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        gone: OSError = FileNotFoundError(target)
        for _ in range(NUM_TRIES):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("xb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                placed = place(temporary, target)
                sync_folder(target.parent)
                return placed
            except (FileNotFoundError, FileExistsError) as error:  # the folder went or came under `mkdir`
                gone = error
            except OSError as error:
                raise not_writable(self.uri, error, "--store") from error
            finally:
                with suppress(OSError):  # what cannot be removed is never read
                    temporary.unlink(missing_ok=True)
        raise not_writable(self.uri, gone, "--store") from gone

    def _unreadable(self, key: str, error: OSError) -> PlatformError:
        return PlatformError(
            f"{self.uri}/{key}: cannot read ({error.strerror or error}); expected a readable store on a working disk. "
            "Check its permissions and the disk, then start again."
        )


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    return True


def _replace(temporary: Path, target: Path) -> bool:
    temporary.replace(target)
    return True
