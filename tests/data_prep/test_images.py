"""Decoding: upright RGB from allowed formats of bounded size, and a reason for everything else."""

import io
import tarfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.images import MAX_BYTES, decode, inspect
from infra.errors import DataError


def encoded(image: Image.Image, image_format: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **more)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """Wider than high; red, green / blue, white."""
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16], pixels[:8, 16:] = (255, 0, 0), (0, 255, 0)
    pixels[8:, :16], pixels[8:, 16:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int) -> None:
    """The stored pixels are turned the other way round, as a camera held askew stores them."""
    turns = Image.Transpose
    undo = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    stored = quarters() if orientation == 1 else quarters().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(quarters()))
    facts = inspect(data)
    assert (facts.width_px, facts.height_px) == (32, 16)


@pytest.mark.parametrize(
    ("image_format", "more"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {})],
)
def test_allowed_formats_give_their_pixels(image_format: str, more: dict[str, Any]) -> None:
    data = encoded(quarters(), image_format, **more)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(quarters()))
    assert inspect(data).format == image_format


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "TGA", "PCX", "EPS", "JPEG2000"])
def test_other_formats_are_refused_though_pillow_reads_them(image_format: str) -> None:
    with pytest.raises(DataError, match="expected JPEG, PNG"):
        decode(encoded(quarters(), image_format))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb_of_the_same_brightness(mode: str) -> None:
    """A ramp from black to white; 16-bit values must be scaled, not cut off at 255."""
    ramp = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[None], 16, axis=0)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode == "1":
        image = Image.fromarray(np.where(ramp > 127, 255, 0).astype(np.uint8)).convert("1")
    else:
        image = (Image.fromarray(ramp) if mode == "P" else Image.fromarray(np.stack([ramp] * 3, axis=-1))).convert(mode)
    decoded = decode(encoded(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert decoded.mode == "RGB"
    expected = np.where(ramp > 127, 255, 0) if mode == "1" else ramp
    assert np.abs(np.asarray(decoded).astype(int) - expected[..., None]).max() <= 3


def test_sixteen_bit_tiff_of_either_byte_order_is_scaled() -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for typed in (values, values.astype(">u2")):
        decoded = np.asarray(decode(encoded(Image.fromarray(typed), "TIFF")))
        assert np.array_equal(decoded[..., 0].ravel(), np.arange(256))


def test_a_bomb_is_refused_before_its_pixels_exist() -> None:
    """A PNG of 20 kB that says it has 400 million pixels; the exact size in between warns in Pillow."""
    for side in (9_000, 20_000):
        row = zlib.compressobj(9)
        pixels = b"".join(row.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + row.flush()
        header = side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        assert len(data) < 100_000
        with pytest.raises(DataError, match="pixels"):
            decode(data)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(DataError, match=str(MAX_BYTES)):
        decode(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_half_a_file_is_refused(image_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, image_format)
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<html>not found</html>", b"GIF89a"])
def test_what_is_no_image_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        inspect(data)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.shared_data
def test_damaged_files_of_the_world_are_decoded_or_refused(shared_data: Path) -> None:
    """Nothing but DataError comes out of 690 odd files, and what is decoded is RGB."""
    decoded = refused = 0
    with tarfile.open(shared_data / "robustness" / "files.tar") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for member in archive:
            file = archive.extractfile(member)
            if file is None:
                continue
            try:
                image = decode(file.read())
            except DataError:
                refused += 1
            else:
                decoded += 1
                assert image.mode == "RGB"
    assert decoded > 300
    assert refused > 200


def test_any_changed_bytes_are_decoded_or_refused() -> None:
    """Decoders raise much more than OSError at hostile bytes; one such file must cost one row."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[274] = 6
    files = [encoded(quarters(), name, exif=exif) for name in ("JPEG", "WEBP", "PNG", "TIFF")]
    refused = 0
    for _ in range(150):
        for file in files:
            data = bytearray(file)
            for place in random.integers(0, min(len(data), 400), 4):
                data[place] = int(random.integers(0, 256))
            try:
                inspect(bytes(data))
            except DataError:
                refused += 1
    assert refused
