"""Pictures beside an annotation file: a folder, or a tar or zip archive. Their names come from outside."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any, Protocol

from data_prep.sources.archives import MAX_MEMBER_BYTES, is_archive, open_archive, too_large
from data_prep.sources.base import FileFacts, ImageRef, RowFault, shown
from data_prep.sources.files import facts_of, one_file
from infra.places import LocalPlace, Place, PlaceFile, is_remote, open_place

NUM_READERS = 16
"""Of remote pictures at a time."""
MISSING = "missing"


class Images(Protocol):
    def listing(self) -> list[FileFacts]:
        """Raises ConfigError where the folder or archive is missing."""

    def ref(self, name: Any) -> ImageRef:
        """The picture of this name; a name that is not in the listing, `..` and all, is a missing file."""

    def fetch_ahead(self, images: Sequence[ImageRef]) -> None:
        """See FetchesAhead."""


class BesideImages:
    """A source whose pictures lie beside its annotations."""

    _images: Images

    def fetch_ahead(self, images: Sequence[ImageRef]) -> None:
        self._images.fetch_ahead(images)


def open_images(uri: str) -> Images:
    return ArchiveImages(uri) if is_archive(uri) else FolderImages(open_place(uri))


class FolderImages:
    """Listed once: a picture is what the listing shows, so a name cannot lead out of the folder."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._ahead: dict[str, Future[bytes]] = {}

    def listing(self) -> list[FileFacts]:
        return [facts_of(self._place.at(name), file) for name, file in self._files.items()]

    def ref(self, name: Any) -> ImageRef:
        told = str(name)
        file = self._files.get(PurePosixPath(told).as_posix())
        if file is None:
            return missing_image(f"{self._place.uri}/{told}", told)
        return ImageRef(self._place.at(file.name).uri, told, file.version, partial(self._read, file))

    def fetch_ahead(self, images: Sequence[ImageRef]) -> None:
        """One read of a remote file waits for the network most of its time; a local one waits for nothing."""
        if not is_remote(self._place.uri):
            return
        for image in images:
            name = image.uri.removeprefix(self._place.uri + "/")
            if name in self._files and name not in self._ahead:
                self._ahead[name] = self._readers.submit(self._read_now, self._files[name])

    def _read(self, file: PlaceFile) -> bytes:
        started = self._ahead.pop(file.name, None)
        return started.result() if started else self._read_now(file)

    def _read_now(self, file: PlaceFile) -> bytes:
        if file.size_bytes > MAX_MEMBER_BYTES:
            raise too_large(file.name, file.size_bytes)
        place = self._place.at(file.name)
        return place.path.read_bytes() if isinstance(place, LocalPlace) else place.read()

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_READERS, thread_name_prefix="reader")

    @cached_property
    def _files(self) -> dict[str, PlaceFile]:
        return {file.name: file for file in self._place.files()}


class ArchiveImages:
    """Members are read by their offset; the archive's version is theirs."""

    def __init__(self, uri: str) -> None:
        self._archive = open_archive(uri)
        self._uri = uri

    def listing(self) -> list[FileFacts]:
        return [self._facts]

    def ref(self, name: Any) -> ImageRef:
        told = str(name)
        plain = PurePosixPath(told).as_posix()
        if plain not in self._members:
            return missing_image(f"{self._facts.uri}#{told}", told, self._archive.refused.get(told, "no such file"))
        return ImageRef(f"{self._facts.uri}#{plain}", told, self._facts.version, partial(self._archive.read, plain))

    def fetch_ahead(self, images: Sequence[ImageRef]) -> None:
        """Nothing to do: a remote archive is at hand once its first member is asked for."""

    @cached_property
    def _facts(self) -> FileFacts:
        return one_file(self._uri, self._uri.rpartition("/")[2])

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self._archive.members)


def missing_image(uri: str, name: str, reason: str = "no such file") -> ImageRef:
    def read() -> bytes:
        raise RowFault("missing_file", f"{shown(name)}: {reason}")

    return ImageRef(shown(uri), shown(name), MISSING, read)
