"""Pictures beside an annotation file: a folder, or a tar or zip archive. Their names come from outside."""

from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any, Protocol

from data_prep.sources.archives import MAX_MEMBER_BYTES, is_archive, open_archive, too_large
from data_prep.sources.base import FileFacts, ImageRef, RowFault
from data_prep.sources.files import facts_of, one_file
from infra.places import Place, PlaceFile, open_place

MISSING = "missing"


class Images(Protocol):
    def listing(self) -> list[FileFacts]:
        """Raises ConfigError where the folder or archive is missing."""

    def ref(self, name: Any) -> ImageRef:
        """The picture of this name; a name that is not in the listing, `..` and all, is a missing file."""


def open_images(uri: str) -> Images:
    return ArchiveImages(uri) if is_archive(uri) else FolderImages(open_place(uri))


class FolderImages:
    """Listed once: a picture is what the listing shows, so a name cannot lead out of the folder."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def listing(self) -> list[FileFacts]:
        return [facts_of(self._place.at(name), file) for name, file in self._files.items()]

    def ref(self, name: Any) -> ImageRef:
        told = str(name)
        file = self._files.get(PurePosixPath(told).as_posix())
        if file is None:
            return missing_image(f"{self._place.uri}/{told}", told)
        place = self._place.at(file.name)
        return ImageRef(place.uri, told, file.version, partial(_read, place, file))

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

    @cached_property
    def _facts(self) -> FileFacts:
        return one_file(self._uri, self._uri.rpartition("/")[2])

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self._archive.members)


def missing_image(uri: str, name: str, reason: str = "no such file") -> ImageRef:
    def read() -> bytes:
        raise RowFault("missing_file", f"{name}: {reason}")

    return ImageRef(uri, name, MISSING, read)


def _read(place: Place, file: PlaceFile) -> bytes:
    if file.size_bytes > MAX_MEMBER_BYTES:
        raise too_large(file.name, file.size_bytes)
    return place.read()
