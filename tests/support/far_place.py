"""A place that says it is far away, and tells what was read from it."""

import threading
from typing import BinaryIO

from infra.places import LocalPlace, PlaceFile


class FarPlace:
    """A local folder or file under an s3:// name. Whole reads return only when `together` of them are under way."""

    def __init__(self, near: LocalPlace, reads: list[str], together: threading.Barrier | None = None) -> None:
        self.uri = f"s3://bucket{near.path}"
        self._near, self._together, self._reads = near, together, reads

    def at(self, name: str) -> "FarPlace":
        return FarPlace(self._near.at(name), self._reads, self._together)

    def is_folder(self) -> bool:
        return self._near.is_folder()

    def files(self) -> list[PlaceFile]:
        return self._near.files()

    def facts(self) -> PlaceFile:
        return self._near.facts()

    def open(self) -> BinaryIO:
        self._reads.append(f"open {self._near.path.name}")
        return self._near.open()

    def read(self) -> bytes:
        self._reads.append(self._near.path.name)
        if self._together:
            self._together.wait(30)
        return self._near.read()
