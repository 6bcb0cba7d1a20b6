"""Decoding: upright RGB from allowed formats of bounded size, and a reason for everything else."""

import io
import tarfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image

from data_prep.images import MAX_BYTES, ImageError, decode, inspect
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


LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
]


@pytest.mark.parametrize(("image_format", "more"), LOSSLESS)
def test_allowed_formats_give_their_pixels(image_format: str, more: dict[str, Any]) -> None:
    data = encoded(quarters(), image_format, **more)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(quarters()))
    assert inspect(data).format == image_format


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "TGA", "PCX", "EPS", "JPEG2000", "AVIF", "DIB"])
def test_other_formats_are_refused_though_pillow_reads_them(image_format: str) -> None:
    with pytest.raises(ImageError, match="expected JPEG, PNG") as caught:
        decode(encoded(quarters(), image_format))
    assert caught.value.reason == "format_not_allowed"


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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "1", "RGB"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    """Left half black and opaque; right half black, or the colour named transparent, and not to be seen."""
    alpha = Image.new("L", (16, 8), 0)
    alpha.paste(255, (0, 0, 8, 8))
    more: dict[str, Any] = {}
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (16, 8), 0)
        image.putalpha(alpha)
    elif mode == "PA":
        image = Image.merge("RGBA", [Image.new("L", (16, 8), 0)] * 3 + [alpha]).quantize(4)
    else:
        hidden = {"P": 7, "L": 90, "1": 1, "RGB": (9, 80, 7)}[mode]
        image = Image.new(mode, (16, 8), 0)
        image.paste(hidden, (8, 0, 16, 8))
        more = {"transparency": hidden}
        if mode == "P":
            image.putpalette([0] * 768)
    decoded = np.asarray(decode(encoded(image, **more)))
    assert (decoded[:, :8] == 0).all()
    assert (decoded[:, 8:] == 255).all()


def test_half_transparent_colours_are_mixed_with_white() -> None:
    decoded = decode(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))))
    assert decoded.getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.25, 1.0]], np.float32), [0, 64, 255]),
        (np.array([[-1.0, 0.0, np.nan, np.inf, 3.0]], np.float32), [0, 64, 0, 0, 255]),
        (np.array([[7.0, 7.0]], np.float32), [0, 0]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
        (np.array([[-(2**31), 0, 2**31 - 1]], np.int32), [0, 128, 255]),
        (np.array([[2**30, 2**30 + 51, 2**30 + 255]], np.int32), [0, 51, 255]),
    ],
)
def test_numbers_of_32_bits_are_stretched_from_least_to_greatest(values: Any, expected: list[int]) -> None:
    decoded = np.asarray(decode(encoded(Image.fromarray(values), "TIFF")))
    assert (decoded == decoded[..., :1]).all()
    assert decoded[0, :, 0].tolist() == expected


def test_lab_becomes_rgb() -> None:
    grey = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (128, 128, 128)])
    pixel = decode(encoded(grey, "TIFF")).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    assert max(pixel) - min(pixel) <= 2
    assert 110 < pixel[0] < 130


def test_adobes_inverted_cmyk_is_not_a_negative() -> None:
    """Pillow writes CMYK JPEG with Adobe's marker and inverted, as Photoshop does."""
    data = encoded(quarters().resize((320, 160), Image.Resampling.NEAREST).convert("CMYK"), "JPEG")
    assert b"Adobe" in data
    decoded = np.asarray(decode(data)).astype(int)
    assert np.abs(decoded[20, 20] - (255, 0, 0)).max() <= 3
    assert np.abs(decoded[140, 300] - (255, 255, 255)).max() <= 3


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(image_format: str) -> None:
    more = {"lossless": True} if image_format == "WEBP" else {}
    others = [Image.new("RGB", (32, 16), colour) for colour in ("red", "blue")]
    data = encoded(quarters(), image_format, save_all=True, append_images=others, **more)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(quarters()))
    assert inspect(data).phash == inspect(encoded(quarters())).phash


def test_a_jpeg_of_several_pictures_is_its_first() -> None:
    """Cameras write such files (MPO) under the name of JPEG."""
    first, second = quarters().resize((64, 32)), Image.new("RGB", (64, 32))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    alone = inspect(encoded(first, "JPEG"))
    assert inspect(data) == alone
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(encoded(first, "JPEG"))))


def test_damaged_metadata_leaves_an_image_upright() -> None:
    data = encoded(quarters(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(quarters()))
    assert inspect(data).width_px == 32


def test_a_bomb_is_refused_before_its_pixels_exist() -> None:
    """A PNG of 20 kB that says it has 400 million pixels; the exact size in between warns in Pillow."""
    for side in (9_000, 20_000):
        row = zlib.compressobj(9)
        pixels = b"".join(row.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + row.flush()
        header = side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        assert len(data) < 100_000
        for read in (decode, inspect):
            with pytest.raises(ImageError, match="pixels") as caught:
                read(data)
            assert caught.value.reason == "too_many_pixels"


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(ImageError, match=str(MAX_BYTES)) as caught:
        decode(bytes(MAX_BYTES + 1))
    assert caught.value.reason == "too_many_bytes"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_half_a_file_is_refused(image_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, image_format)
    for read in (decode, inspect):
        with pytest.raises(ImageError, match="cannot be decoded") as caught:
            read(data[: len(data) // 2])
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize("progressive", [False, True])
def test_inspecting_notices_a_cut_jpeg_wherever_decoding_does(progressive: bool) -> None:
    """Though it decodes at an eighth of the size. Shown by Pillow's LOAD_TRUNCATED_IMAGES."""
    noise = np.random.default_rng(0).integers(0, 256, (25, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((600, 500), Image.Resampling.BICUBIC)
    data = encoded(picture, "JPEG", progressive=progressive)
    inspect(data)
    for missing in (3, 10, 100, len(data) // 3, len(data) // 2, len(data) - 700):
        for read in (decode, inspect):
            with pytest.raises(ImageError) as caught:
                read(data[:-missing])
            assert caught.value.reason == "truncated"


def test_equal_pixels_have_equal_hashes_in_every_lossless_format_and_mode() -> None:
    grey = Image.radial_gradient("L").resize((301, 203))
    pictures = [grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("LA")]
    files = [encoded(picture) for picture in pictures]
    files += [encoded(grey.convert("RGB"), name, **more) for name, more in LOSSLESS if name != "GIF"]
    files.append(encoded(grey, "GIF"))
    assert len({inspect(data).phash for data in files}) == 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_the_hash_is_that_of_the_upright_image(image_format: str) -> None:
    """Of a picture whose halves differ, and whose sides are no multiple of what it is reduced by."""
    upright = Image.radial_gradient("L").rotate(45, translate=(30, 60)).resize((301, 203))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    turned, plain = inspect(encoded(stored, image_format, exif=exif)), inspect(encoded(upright, image_format))
    assert (turned.width_px, turned.height_px) == (301, 203)
    assert distance(turned.phash, plain.phash) <= 2
    assert distance(inspect(encoded(stored)).phash, plain.phash) > 10


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (31, 33), (64, 2000)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_images_of_any_shape_have_a_hash(size: tuple[int, int], image_format: str) -> None:
    facts = inspect(encoded(Image.radial_gradient("L").resize(size), image_format))
    assert (facts.width_px, facts.height_px) == size
    assert len(facts.phash) == 16


@pytest.mark.shared_data
def test_hashes_of_photos_are_near_those_of_the_whole_images(shared_data: Path) -> None:
    """At most 2 of 64 bits apart for 99 in 100 photos, and for their lossless copies."""
    photos = [path.read_bytes() for path in sorted((shared_data / "coco_mini" / "images").iterdir())]
    far = [0, 0]
    for photo in photos:
        image = decode(photo)
        whole = str(imagehash.phash(image))
        for which, data in enumerate((photo, encoded(image, "BMP"))):
            far[which] += distance(inspect(data).phash, whole) > 2
    assert len(photos) == 369
    assert max(far) <= 3


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


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


def with_sampling(data: bytes, *factors: int) -> bytes:
    """The JPEG with other sampling factors (horizontal and vertical, four bits each) of its three components."""
    start = data.index(b"\xff\xc0")
    patched = bytearray(data)
    for component, factor in enumerate(factors):
        patched[start + 11 + 3 * component] = factor
    return bytes(patched)


def test_what_inspect_takes_decode_takes_too() -> None:
    """A draft in grey does not look at how colours are sampled; a tower needs them. Shown to fail without a look."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG", subsampling=0)
    verdicts = set()
    for factors in ((0x31, 0x21, 0x21), (0x31, 0x21, 0x11), (0x13, 0x12, 0x12), (0x22, 0x11, 0x11), (0x21, 0x11, 0x11)):
        data = with_sampling(buffer.getvalue(), *factors)
        accepted = []
        for read in (inspect, decode):
            try:
                read(data)
                accepted.append(True)
            except ImageError:
                accepted.append(False)
        assert accepted[0] <= accepted[1], f"{factors} passes inspect and fails decode"
        verdicts.add(tuple(accepted))
    assert (False, False) in verdicts
