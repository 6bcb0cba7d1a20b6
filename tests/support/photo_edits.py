"""The image-tuning task: real photos with another brightness, contrast and saturation, by known factors."""

import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageEnhance

NUM_EDITS = 2460
"""About two of each photo. With half as many the mapper was no better than a ridge probe in brightness."""
FACTORS = (0.5, 1.5)
SIZE_PX = 256
NAMES = ("brightness", "contrast", "saturation")


def write_photo_edits(shared_data: Path, folder: Path) -> None:
    """edits.jsonl and its pictures: the photos of coco_mini and ucm_captions, edited in turn."""
    photos = list(_photos(shared_data))
    lines = []
    for number in range(NUM_EDITS):
        place = number % len(photos)
        draw = random.Random(number)
        factors = [draw.uniform(*FACTORS) for _ in NAMES]
        # Lossless, as what an edit does to colours is what is to be seen.
        edited(photos[place], factors).save(folder / f"{number}.png", compress_level=1)
        lines.append({"image": f"{number}.png", "numbers": factors, "split_group": f"photo {place}"})
    (folder / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def edited(photo: bytes, factors: list[float]) -> Image.Image:
    """Brightness, then contrast, then saturation."""
    with Image.open(io.BytesIO(photo)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((SIZE_PX, SIZE_PX))
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhance(image).enhance(factor)
    return image


def _photos(shared_data: Path) -> Iterator[bytes]:
    for path in sorted((shared_data / "coco_mini" / "images").glob("*.jpg")):
        yield path.read_bytes()
    for path in sorted((shared_data / "ucm_captions").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".jpg"):
                    yield tar.extractfile(member).read()  # type: ignore[union-attr]
