"""The files that hold rows: which there are, what their versions cover, and reading them without trusting them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, BinaryIO, Protocol

from data_prep.sources.base import FileFacts, SourceOptions, fingerprint_facts
from infra.digests import digest_json
from infra.errors import ConfigError, DataError
from infra.places import Place, PlaceFile, open_place

PATH_FIELDS = {"path", "annotations", "questions", "images", "pace"}
"""Fields of every kind of source that say where files are, relative to the recipe, or how fast they are fetched: left
out of fingerprints."""
MAX_LINE_BYTES = 16 * 2**20
"""A longer line is no row: reading it whole would let one file take all memory."""


class Listed(Protocol):
    """What a folder or an archive of pictures can tell without being read."""

    def listing(self) -> list[FileFacts]: ...


def facts_of(place: Place, file: PlaceFile, name: str | None = None) -> FileFacts:
    return FileFacts(place.uri, name or file.name, file.size_bytes, file.version)


def one_file(uri: str, name: str) -> FileFacts:
    """The file at `uri`, called `name` within its source. Raises ConfigError where there is none."""
    place = open_place(uri)
    return facts_of(place, place.facts(), name)


def row_files(uri: str, suffixes: Sequence[str]) -> list[FileFacts]:
    """The one file at `uri`; or those of a folder with one of the suffixes, or those that match a `*` in the last
    component, sorted by name. Raises ConfigError where there is none."""
    parent, _, pattern = uri.rpartition("/")
    if "*" in pattern:
        folder = open_place(parent or ".")
        matches = partial(fnmatchcase, pat=pattern)
        found = [file for file in folder.files() if "/" not in file.name and matches(file.name)]
    else:
        folder = open_place(uri)
        if not folder.is_folder():
            return [facts_of(folder, folder.facts())]
        found = [file for file in folder.files() if file.name.endswith(tuple(suffixes))]
    if not found:
        raise ConfigError(
            f"{uri}: no file of this kind was found; expected one with {' or '.join(suffixes)}. "
            "Check the path in the recipe's ingest.sources."
        )
    return [facts_of(folder.at(file.name), file) for file in found]


def covering(files: list[FileFacts], options: SourceOptions, images: Listed | None = None) -> list[FileFacts]:
    """The same files, with versions that change with the pictures beside them and with how they are parsed."""
    parsed = options.model_dump(mode="json", exclude={*PATH_FIELDS, "name", "weight"})
    beside = fingerprint_facts(images.listing()) if images else []
    covered = digest_json([parsed, beside])[:16]
    return [replace(file, version=f"{file.version}+{covered}") for file in files]


def own_version(file: FileFacts) -> str:
    """The version of one of `covering`'s files by itself: that of the pictures inside it."""
    return file.version.partition("+")[0]


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends, of which a longer one than MAX_LINE_BYTES is cut to MAX_LINE_BYTES + 1."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        last = line
        while len(last) > MAX_LINE_BYTES and not last.endswith(b"\n"):
            last = file.readline(MAX_LINE_BYTES + 1)
        yield line


def read_json(file: FileFacts, expected: str) -> Any:
    """The whole file as JSON. Raises DataError where it is none."""
    try:
        return json.loads(open_place(file.uri).read())
    except (ValueError, RecursionError) as error:
        raise not_of_this_kind(file, error, expected) from error


def not_of_this_kind(file: FileFacts, error: Exception, expected: str) -> DataError:
    told = " ".join(str(error).split())
    return DataError(
        f"{file.uri}: {type(error).__name__} {told} while reading; expected {expected}. "
        "Fix the file or choose another kind of source."
    )
