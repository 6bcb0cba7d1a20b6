"""Re-encoding at ingest: large images become smaller, the same way each time; small ones are let be."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from data_prep.images import ImageError, decode, inspect
from data_prep.reencode import Reencode, reencode

CONFIG = Reencode(max_side_px=100, quality=85)


def encoded(image: Image.Image, image_format: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **more)
    return buffer.getvalue()


def picture(width_px: int, height_px: int) -> Image.Image:
    gradient = Image.linear_gradient("L").resize((width_px, height_px))
    return Image.merge("RGB", [gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_large_image_becomes_the_same_small_jpeg_each_time(image_format: str) -> None:
    data = encoded(picture(1000, 500), image_format)
    stored = reencode(data, CONFIG)
    assert stored is not None
    assert stored == reencode(data, CONFIG)
    facts = inspect(stored)
    assert (facts.format, facts.width_px, facts.height_px) == ("JPEG", 100, 50)
    expected = np.asarray(picture(100, 50)).astype(int)
    assert np.abs(np.asarray(decode(stored)) - expected).mean() < 4


@pytest.mark.parametrize("size", [(100, 100), (100, 30), (1, 1)])
def test_an_image_within_the_cap_is_let_be(size: tuple[int, int]) -> None:
    assert reencode(encoded(picture(*size)), CONFIG) is None


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_what_is_stored_is_upright_and_without_metadata(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    turned = picture(400, 200).transpose(Image.Transpose.ROTATE_90)
    stored = reencode(encoded(turned, image_format, exif=exif), CONFIG)
    assert stored is not None
    with Image.open(io.BytesIO(stored)) as image:
        assert image.size == (100, 50)
        assert not image.getexif()
    assert np.abs(np.asarray(decode(stored)).astype(int) - np.asarray(picture(100, 50))).mean() < 4


def test_transparency_and_sixteen_bits_follow_the_rule_of_decoding() -> None:
    clear = reencode(encoded(Image.new("RGBA", (300, 300), (0, 0, 0, 0))), CONFIG)
    deep = reencode(encoded(Image.fromarray(np.full((300, 300), 128 * 257, np.uint16))), CONFIG)
    assert clear is not None
    assert deep is not None
    assert np.asarray(decode(clear)).min() >= 254
    assert np.abs(np.asarray(decode(deep)).astype(int) - 128).max() <= 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_cut_image_is_refused_and_not_made_whole(image_format: str) -> None:
    data = encoded(picture(1000, 500), image_format)
    with pytest.raises(ImageError) as caught:
        reencode(data[: len(data) // 2], CONFIG)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("fields", [{"max_side_px": 8}, {"max_side_px": 100, "quality": 100}, {"quality": 90}])
def test_settings_out_of_range_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Reencode.model_validate(fields)
