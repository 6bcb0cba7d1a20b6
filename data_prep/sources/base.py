"""What a source gives: the files it lies in, and the rows of each. Sources parse; they decode and decide nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

MAX_SHOWN_CHARS = 200


class SourceOptions(BaseModel):
    """What every kind of source can be given in a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str | None = None
    """Stands in the `source` column, for slices of the evaluation. Default: the kind."""
    weight: float = Field(default=1.0, gt=0)
    """Of each of its examples, in the `weight` column."""


@dataclass(frozen=True)
class FileFacts:
    """One file of a source: equal facts mean equal bytes, so a file whose facts are known is not read again."""

    uri: str
    """Where it is. Recognises it within a store's history; never part of a fingerprint or an output."""
    name: str
    """What it is called within its source. Part of the fingerprint."""
    size_bytes: int
    version: str
    """Changes when the bytes do: a modification time, an etag, a commit, a digest of several files' facts."""


class RowFault(Exception):  # noqa: N818 (a fact about a row)
    """The row cannot be used, and goes to quarantine. A passing fault (a time-out, a server's error) is tried again."""

    def __init__(self, reason: str, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.passing = passing


@dataclass(frozen=True)
class ImageRef:
    """An image that can be read when it is needed. Equal `uri` and `version` mean equal bytes."""

    uri: str
    """Where it is, like `FileFacts.uri`; a member of an archive is `{archive}#{member}`."""
    name: str
    """What it is called within its source; told to people."""
    version: str
    """Of the file it lies in; `missing` where there is none."""
    read: Callable[[], bytes]
    """The source bytes. Raises RowFault, or OSError where there is no such file."""


@dataclass(frozen=True)
class SourceRow:
    """One annotated image of a source: an image with its captions, a question with its answers, a label, numbers."""

    row: int
    """Position in its file, from 0. Counted in `rows in`, whatever becomes of it."""
    image: ImageRef
    task: str
    prompt: str = ""
    targets: tuple[str, ...] = ()
    split: str | None = None
    """The source's own split, or None: then a digest of `split_group` decides."""
    split_group: str | None = None
    """Images of one group share a split. Default: the image itself."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[float, ...] = ()
    label: str | None = None
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadRow:
    """A row that could not be parsed. It is counted and quarantined, like a row with a bad image."""

    row: int
    name: str
    """Where it stands, as a person would look for it: `lines.jsonl:17`."""
    reason: str
    message: str


class Source(Protocol):
    """Opened from its configuration; opening and listing read no annotation and no image."""

    def listing(self) -> list[FileFacts]:
        """Every file, annotations and images: what the fingerprint covers. Raises ConfigError where one is missing."""

    def files(self) -> list[FileFacts]:
        """The files that hold rows, in a fixed order. Their `version` covers the images they refer to, so that rows
        of a file with known facts need not be looked at."""

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        """Rows of one of `files()` in a fixed order, without reading images. Raises DataError where the file is not
        of this kind at all."""


@runtime_checkable
class FetchesAhead(Protocol):
    """A source whose images come slowly one by one and quickly together."""

    def fetch_ahead(self, images: Sequence[ImageRef]) -> None:
        """These images will be read, once each and soon: they are asked for now, many at a time, and this returns at
        once. Whoever announces images bounds how many wait to be read. An image that was not announced is fetched
        when it is read; one that is never read costs its bytes until the source is gone."""


def shown(text: str) -> str:
    """A name from outside, fit for one line of a message."""
    return text if text.isprintable() and len(text) <= MAX_SHOWN_CHARS else repr(text[:MAX_SHOWN_CHARS])


def fingerprint_facts(files: list[FileFacts]) -> list[dict[str, Any]]:
    """What of a listing decides rows: everything but where the files are."""
    return [{"name": file.name, "size_bytes": file.size_bytes, "version": file.version} for file in files]
