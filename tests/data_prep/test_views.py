"""Augmented views: other pictures each, and the same ones whenever and wherever they are made."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_prep.images import decode
from data_prep.views import MIN_AREA, view_of
from infra.digests import digest_bytes

MakePicture = Callable[[int], bytes]


def test_a_view_is_a_function_of_image_number_and_seed(make_picture: MakePicture) -> None:
    image = decode(make_picture(0))
    asked = [("a" * 64, 1, 0), ("a" * 64, 2, 0), ("a" * 64, 1, 1), ("b" * 64, 1, 0)]
    views = [view_of(image, *each) for each in asked]
    assert len({(view.size, view.tobytes()) for view in views}) == len(asked)
    for each, view in zip(asked, views, strict=True):
        again = view_of(decode(make_picture(0)), *each)
        assert (again.size, again.tobytes()) == (view.size, view.tobytes())


def test_the_first_view_is_the_image_itself(make_picture: MakePicture) -> None:
    image = decode(make_picture(0))
    assert view_of(image, "a" * 64, 0, 0) is image


def test_the_bytes_of_a_view_change_only_with_the_encode_version() -> None:
    """A golden digest: other bytes need another ENCODE_VERSION in data_prep/tower.py, and then another digest here."""
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3) * 7 % 256
    view = view_of(Image.fromarray(pixels.astype(np.uint8)), "a" * 64, 1, 0)
    assert (view.size, digest_bytes(view.tobytes())[:16]) == ((60, 36), "674b0abfdef4db67")


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (1, 500), (333, 2)])
def test_a_view_shows_a_part_of_the_picture_whatever_its_shape(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (90, 120, 30))
    for number in range(1, 40):
        view = view_of(image, "c" * 64, number, 0)
        assert view.mode == "RGB"
        assert 1 <= view.width <= image.width
        assert 1 <= view.height <= image.height
        rounding = 1.5 / min(size)
        assert view.width * view.height >= (MIN_AREA - rounding) * image.width * image.height
