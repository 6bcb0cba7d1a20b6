"""Decoding images that came from outside: allowed formats only, bounded size, one way to RGB.

What becomes of a mode, in this order:

- 16-bit greyscale: the upper 8 bits (Pillow's own conversion cuts off at 255, which leaves white);
- 32-bit integers and floats, whose white no format tells: stretched linearly from their least to their greatest
  finite value; what is not finite, and a single value, becomes black;
- alpha and transparent colours (RGBA, LA, tRNS, palettes): laid on white;
- 1 bit, greyscale, palette, YCbCr, CMYK (Adobe's inverted one too), LAB: Pillow's conversion to RGB; no ICC profiles;
- several frames or pages: the first one;
- EXIF or XMP orientation is applied; where it cannot be read, the image is taken as upright.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose
    from PIL.ImageFile import ImageFile

_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
}
FORMATS = tuple(_SIGNATURES)
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 2**20
DECODE_VERSION = 2
"""Part of the encoder key: raise it when the same bytes become other pixels."""

_ORIENTATION = 0x0112
_HASHED_PX = 32
"""Side of what `imagehash.phash` makes of any image before it transforms it."""


class ImageError(DataError):
    """Bytes that are no image we take. `reason` is a class for the quarantine: format_not_allowed, too_many_bytes,
    too_many_pixels, truncated, unreadable_image."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ImageFacts:
    format: str
    width_px: int
    """Upright, like `height_px`."""
    height_px: int
    phash: str
    """16 hexadecimal digits; see `inspect`."""


def decode(data: bytes) -> Image:
    """RGB image, upright. Raises ImageError for anything else; MemoryError where there is no room for its pixels."""
    with opened(data) as image:
        image.load()
        turn = turn_of(image)
        rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def inspect(data: bytes) -> ImageFacts:
    """Read the whole file and tell what is in it, at a third of the price of `decode` and `imagehash.phash`.

    The hash is `imagehash.phash` of the upright greyscale image. It is first reduced by the largest of 8, 4 and 2 that
    leaves 32 pixels a side: by averaging, or for JPEG by decoding at that scale (libjpeg reads every coefficient, and
    so notices a truncated file, but transforms few). Equal pixels in lossless formats give equal hashes; of 369 photos
    368 are at most 2 bits from the hash of the full image. Raises like `decode`.
    """
    import imagehash
    import numpy as np
    from PIL.Image import Resampling

    with opened(data) as image:
        size = image.size
        if _format_of(data) == "JPEG" and _has_odd_sampling(image):
            decode(data)  # which a draft in grey says nothing about
        drafted = image.draft("L", (_HASHED_PX, _HASHED_PX)) if _format_of(data) == "JPEG" else None
        image.load()
        plain = image.mode in ("L", "RGB") and not image.has_transparency_data
        grey = (image if plain else to_rgb(image)).convert("L")
        turn = turn_of(image)
    if drafted is None:
        size = grey.size  # a TIFF is turned upright while it is loaded
        factor = next(n for n in (8, 4, 2, 1) if n == 1 or min(size) >= n * _HASHED_PX)
        grey, box = grey.reduce(factor), (0.0, 0.0, size[0] / factor, size[1] / factor)
    else:
        box = drafted[1]
    small = grey.resize((_HASHED_PX, _HASHED_PX), Resampling.LANCZOS, box=box)
    width_px, height_px = size
    if turn is not None:
        small = small.transpose(turn)
        width_px, height_px = (height_px, width_px) if _swaps_sides(turn) else size
    bits = imagehash.phash(small).hash
    return ImageFacts(_format_of(data), width_px, height_px, np.packbits(bits).tobytes().hex())


def _has_odd_sampling(image: Image) -> bool:
    """Whether a JPEG samples a colour at a fraction of the finest that is no whole one: few decoders scale that."""
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    finest = [max((layer[side] for layer in layers), default=1) for side in (1, 2)]
    return any(finest[side - 1] % max(layer[side], 1) for layer in layers for side in (1, 2))


def check_num_bytes(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise ImageError(
            "too_many_bytes",
            f"an image of {len(data)} bytes was found; expected at most {MAX_BYTES}. Re-encode it smaller.",
        )


@contextmanager
def opened(data: bytes) -> Iterator[ImageFile]:
    """The image, not yet decoded, by the one decoder its first bytes name. Faults of the body become ImageError."""
    from PIL import Image

    check_num_bytes(data)
    # The switch that makes Pillow's plugins refuse bombs wherever they find a size; it cannot be passed as an argument.
    # They refuse twice as many pixels and warn in between, so the exact limit is checked here.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with Image.open(io.BytesIO(data), formats=(_format_of(data),)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything at hostile bytes: struct.error, TypeError, OverflowError ...
        found = str(error).split("<")[0].strip() or type(error).__name__
        raise ImageError(
            _reason_of(error, data),
            f"an image of {len(data)} bytes cannot be decoded ({found}); expected {', '.join(FORMATS)} "
            f"of at most {MAX_PIXELS} pixels. Repair or remove it.",
        ) from error


def to_rgb(image: Image) -> Image:
    """Any loaded image as RGB, by the rule at the top of this file."""
    from PIL.Image import new

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        on_white = new("RGB", image.size, "white")
        on_white.paste(rgba, mask=rgba)
        return on_white
    return image.convert("RGB")


def turn_of(image: Image) -> Transpose | None:
    """What makes a loaded image upright."""
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    try:
        return dict(enumerate(turns, start=2)).get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a good picture with damaged metadata; parsers raise anything, see `opened`
        return None


def _swaps_sides(turn: Transpose) -> bool:
    from PIL.Image import Transpose

    return turn in (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)


def _eight_bits(image: Image) -> Image:
    import numpy as np
    from PIL.Image import fromarray

    if image.mode.startswith("I;16"):
        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    values = np.array(image, dtype=np.float64)
    finite = np.isfinite(values)
    low, high = np.min(values, where=finite, initial=np.inf), np.max(values, where=finite, initial=-np.inf)
    if not low < high:
        return fromarray(np.zeros(values.shape, np.uint8))
    values[~finite] = low
    values -= low
    values *= 255 / (high - low)
    return fromarray(np.rint(values).astype(np.uint8))


def _format_of(data: bytes) -> str:
    """By the first bytes alone: no parser sees what is not its own."""
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    raise ImageError(
        "format_not_allowed",
        f"{len(data)} bytes that begin with {data[:8]!r} were found; expected {', '.join(FORMATS)}. "
        "Convert or remove them.",
    )


def _reason_of(error: Exception, data: bytes) -> str:
    from PIL.Image import DecompressionBombError

    if isinstance(error, DecompressionBombError):
        return "too_many_pixels"
    text = str(error).lower()
    told = isinstance(error, EOFError) or "truncated" in text or "not enough image data" in text
    # WebP's decoder tells nothing; its second word is the number of bytes after it.
    missing = data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little")
    return "truncated" if told or missing else "unreadable_image"
