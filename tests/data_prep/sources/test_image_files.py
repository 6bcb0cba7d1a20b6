"""Pictures beside annotations: read one by one, or several at a time where the network is between."""

import threading
from pathlib import Path
from typing import BinaryIO

from data_prep.sources import FetchesAhead
from data_prep.sources.image_files import FolderImages
from infra.places import LocalPlace, PlaceFile


class FarPlace:
    """A folder whose reads return only when three are under way."""

    def __init__(self, near: LocalPlace, together: threading.Barrier, reads: list[str]) -> None:
        self.uri = f"s3://bucket{near.path}"
        self._near, self._together, self._reads = near, together, reads

    def at(self, name: str) -> "FarPlace":
        return FarPlace(self._near.at(name), self._together, self._reads)

    def is_folder(self) -> bool:
        return self._near.is_folder()

    def files(self) -> list[PlaceFile]:
        return self._near.files()

    def facts(self) -> PlaceFile:
        return self._near.facts()

    def open(self) -> BinaryIO:
        return self._near.open()

    def read(self) -> bytes:
        self._reads.append(self._near.path.name)
        self._together.wait(30)
        return self._near.read()


def test_announced_pictures_are_read_together_and_once(pictures: Path) -> None:
    reads: list[str] = []
    images = FolderImages(FarPlace(LocalPlace(pictures), threading.Barrier(3), reads))
    assert isinstance(images, FetchesAhead)
    refs = [images.ref(f"{number}.png") for number in range(3)]
    images.fetch_ahead([*refs, images.ref("none.png")])
    images.fetch_ahead(refs)
    assert [ref.read() for ref in refs] == [(pictures / f"{number}.png").read_bytes() for number in range(3)]
    assert sorted(reads) == ["0.png", "1.png", "2.png"]


def test_a_picture_that_was_not_announced_is_read_when_it_is_asked_for(pictures: Path) -> None:
    images = FolderImages(FarPlace(LocalPlace(pictures), threading.Barrier(1), []))
    assert images.ref("1.png").read() == (pictures / "1.png").read_bytes()


def test_local_pictures_are_not_read_before_they_are_asked_for(pictures: Path) -> None:
    images = FolderImages(LocalPlace(pictures))
    ref = images.ref("1.png")
    images.fetch_ahead([ref])
    (pictures / "1.png").write_bytes(b"later")
    assert ref.read() == b"later"
    assert not any(thread.name.startswith("reader") for thread in threading.enumerate())
