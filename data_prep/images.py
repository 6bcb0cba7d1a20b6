"""Decoding images that came from outside: allowed formats only, bounded size, one way to RGB."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 2**20
DECODE_VERSION = 1
"""Part of the encoder key: raise it when the same bytes become other pixels."""


@dataclass(frozen=True)
class ImageFacts:
    format: str
    width_px: int
    height_px: int
    phash: str


def decode(data: bytes) -> Image:
    """RGB image, upright by its EXIF orientation. Raises DataError with the reason for anything else."""
    from PIL import Image, ImageOps

    if len(data) > MAX_BYTES:
        raise DataError(f"an image of {len(data)} bytes was found; expected at most {MAX_BYTES}. Re-encode it smaller.")
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                opened.load()
                return _eight_bits(ImageOps.exif_transpose(opened)).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything at hostile bytes: struct.error, TypeError, OverflowError ...
        reason = str(error).split("<")[0].strip() or type(error).__name__
        raise DataError(
            f"an image of {len(data)} bytes cannot be decoded ({reason}); expected {', '.join(FORMATS)} "
            f"of at most {MAX_PIXELS} pixels. Repair or remove it."
        ) from error


def _eight_bits(image: Image) -> Image:
    """16-bit greyscale scaled to 8 bits: Pillow's own conversion cuts off at 255, which leaves white."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def inspect(data: bytes) -> ImageFacts:
    """Decode whole, and tell what was found. Raises DataError like `decode`."""
    import imagehash
    from PIL import Image

    image = decode(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        image_format = opened.format or "unknown"
    return ImageFacts(image_format, image.width, image.height, str(imagehash.phash(image)))
