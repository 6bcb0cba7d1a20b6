"""Pictures beside annotations: read one by one, or several at a time where the network is between."""

import threading
from pathlib import Path

from far_place import FarPlace

from data_prep.sources import FetchesAhead
from data_prep.sources.image_files import FolderImages
from infra.places import LocalPlace


def test_announced_pictures_are_read_together_and_once(pictures: Path) -> None:
    reads: list[str] = []
    images = FolderImages(FarPlace(LocalPlace(pictures), reads, threading.Barrier(3)))
    assert isinstance(images, FetchesAhead)
    refs = [images.ref(f"{number}.png") for number in range(3)]
    images.fetch_ahead([*refs, images.ref("none.png")])
    images.fetch_ahead(refs)
    assert [ref.read() for ref in refs] == [(pictures / f"{number}.png").read_bytes() for number in range(3)]
    assert sorted(reads) == ["0.png", "1.png", "2.png"]


def test_a_picture_that_was_not_announced_is_read_when_it_is_asked_for(pictures: Path) -> None:
    images = FolderImages(FarPlace(LocalPlace(pictures), []))
    assert images.ref("1.png").read() == (pictures / "1.png").read_bytes()


def test_local_pictures_are_not_read_before_they_are_asked_for(pictures: Path) -> None:
    images = FolderImages(LocalPlace(pictures))
    ref = images.ref("1.png")
    before = threading.active_count()
    images.fetch_ahead([ref])
    (pictures / "1.png").write_bytes(b"later")
    assert ref.read() == b"later"
    assert threading.active_count() <= before
