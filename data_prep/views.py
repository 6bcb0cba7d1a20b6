"""Views of an image: the picture itself, and seeded augmentations of it.

An augmented view is a function of (image id, number, seed): encoding it again, anywhere, gives the same features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.digests import digest_json

if TYPE_CHECKING:
    from PIL.Image import Image

ORIGINAL = "original"
MIN_AREA, MAX_STRETCH = 0.4, 4 / 3
"""Of a crop: its share of the picture, and how much wider or higher than the picture's own shape it may be."""
JITTER = 0.4
"""Brightness, contrast and colour are each multiplied by 1 ± this, at most."""


def view_names(num_augmented: int) -> list[str]:
    return [ORIGINAL, *(f"augmented-{number}" for number in range(1, num_augmented + 1))]


def view_of(image: Image, image_id: str, number: int, seed: int) -> Image:
    """View `number` of an RGB image: 0 is the image itself, others are a random crop, perhaps mirrored, with other
    colours. The tower's own processor resizes it, as it does every image."""
    from PIL import ImageEnhance, ImageOps

    if number == 0:
        return image
    area, stretch, left, top, mirrored, *jitter = _random_numbers(image_id, number, seed, 8)
    share = MIN_AREA + area * (1 - MIN_AREA)
    ratio = MAX_STRETCH ** (2 * stretch - 1)
    width_px = max(1, round(image.width * min(1.0, (share * ratio) ** 0.5)))
    height_px = max(1, round(image.height * min(1.0, (share / ratio) ** 0.5)))
    x_px, y_px = round(left * (image.width - width_px)), round(top * (image.height - height_px))
    view = image.crop((x_px, y_px, x_px + width_px, y_px + height_px))
    if mirrored < 0.5:
        view = ImageOps.mirror(view)
    for enhance, amount in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), jitter, strict=True
    ):
        view = enhance(view).enhance(1 + JITTER * (2 * amount - 1))
    return view


def _random_numbers(image_id: str, number: int, seed: int, count: int) -> list[float]:
    """In [0, 1). From a digest, since no library promises its stream for ever."""
    digest = bytes.fromhex(digest_json([image_id, number, seed]))
    return [int.from_bytes(digest[4 * place : 4 * place + 4], "big") / 2**32 for place in range(count)]
