"""What a source gives: a listing that identifies its content, and numbered rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class SourceRow:
    """One annotated image of a source: an image with its captions, or a question with its answers."""

    row: int
    """Position in the source, from 0. Counted in `rows in`, whatever becomes of it."""
    source: str
    image: Callable[[], bytes]
    """Reads the source bytes; raises OSError where there are none."""
    image_uri: str
    task: str
    prompt: str
    targets: tuple[str, ...]
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
    """A row that could not be read at all. It is counted and quarantined, like a row with a bad image."""

    row: int
    source: str
    uri: str
    reason: str
    message: str


class Source(Protocol):
    def listing(self) -> list[dict[str, Any]]:
        """Facts that change when the content does (name, size, modification time or digest). Cheap."""

    def rows(self, start: int = 0) -> Iterator[SourceRow | BadRow]:
        """Rows in a fixed order, from `start` on, skipping cheaply."""
