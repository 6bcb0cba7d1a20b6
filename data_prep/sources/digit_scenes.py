"""Scenes composed from the real handwritten digits that scikit-learn ships: the quickstart's data."""

import functools
import hashlib
import importlib.util
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data_prep.sources.base import BadRow, FileFacts, ImageRef, SourceOptions, SourceRow
from data_prep.sources.files import covering, own_version
from data_prep.sources.scene_text import COLOURS, GRID, Scene, captions, draw_scene, questions
from infra.digests import digest_bytes

if TYPE_CHECKING:
    import numpy as np

ROWS_PER_SCENE = 6
"""One caption example and five questions."""
DRAWING_VERSION = 1
"""Raise it when the same scene becomes another picture."""
_SPLITS = ("train",) * 8 + ("val", "test")


class DigitScenesConfig(SourceOptions):
    """What decides the rows of the digit scenes."""

    kind: Literal["digit_scenes"]
    num_images: int = Field(gt=0)
    """Scene n is a function of the seed and n: a larger number only adds scenes."""
    seed: int = Field(default=0, ge=0)
    image_size_px: int = Field(default=48, ge=24, le=1024, multiple_of=GRID)
    """Side of the square canvas, cut into 3 x 3 cells. At 48 px the 8 x 8 originals are drawn at 11 to 14 px."""


class DigitScenes:
    """A source: rows 6n to 6n + 5 are scene n, its caption example first."""

    def __init__(self, config: DigitScenesConfig) -> None:
        self.config = config

    def listing(self) -> list[FileFacts]:
        return [_originals()]

    def files(self) -> list[FileFacts]:
        return covering(self.listing(), self.config)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        for number in range(self.config.num_images):
            yield from self._scene_rows(number, own_version(file))

    def _scene_rows(self, number: int, version: str) -> list[SourceRow]:
        seed, size_px = self.config.seed, self.config.image_size_px
        split = _SPLITS[number % len(_SPLITS)]
        rng = random.Random(f"{seed}/{number}")
        scene = draw_scene(rng)
        asked = questions(scene, rng)
        drawing_seed = rng.getrandbits(64)
        image = ImageRef(
            uri=f"digit-scenes://{size_px}/{seed}/{number}",
            name=f"scene {number}",
            version=version,
            read=functools.cache(lambda: _draw_png(scene, split, drawing_seed, size_px)),
        )

        def row(offset: int, task: str, prompt: str, targets: tuple[str, ...], facts: dict[str, str]) -> SourceRow:
            return SourceRow(
                row=number * ROWS_PER_SCENE + offset,
                image=image,
                task=task,
                prompt=prompt,
                targets=targets,
                split=split,
                split_group=f"digit-scenes-{split}",
                attributes={"num_digits": str(len(scene.items))} | facts,
            )

        rows = [row(0, "caption", "", captions(scene), {"scene": scene.to_json()})]
        for offset, question in enumerate(asked, start=1):
            facts = {"question_type": question.kind}
            rows.append(row(offset, "vqa", question.prompt, (question.answer,), facts))
        return rows


def _originals() -> FileFacts:
    """The archive of digits inside scikit-learn; its version covers how they are drawn, too."""
    package = importlib.util.find_spec("sklearn")  # does not import it: that takes a second
    assert package is not None and package.origin is not None
    archive = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    version = digest_bytes(archive.read_bytes() + f"drawing {DRAWING_VERSION}".encode())
    return FileFacts("digit-scenes://", "sklearn/datasets/data/digits.csv.gz", archive.stat().st_size, version)


@functools.cache
def _load_digits() -> "tuple[np.ndarray, np.ndarray]":
    """uint8[1797, 8, 8] in 0..255 and uint8[1797]."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.clip(digits.images * 16, 0, 255).astype(np.uint8)
    return pixels, digits.target.astype(np.uint8)


@functools.cache
def handwriting_pool(split: str, digit: int) -> tuple[int, ...]:
    """The originals of one digit that scenes of this split may use.

    The pool of an original is decided by its own bytes, so no handwriting is in two splits."""
    pixels, labels = _load_digits()
    return tuple(
        index for index in range(len(labels)) if labels[index] == digit and split == _split_of(pixels[index].tobytes())
    )


def _split_of(original: bytes) -> str:
    return _SPLITS[int(hashlib.sha256(original).hexdigest(), 16) % len(_SPLITS)]


def _draw_png(scene: Scene, split: str, drawing_seed: int, size_px: int) -> bytes:
    import numpy as np
    from PIL import Image

    rng = random.Random(drawing_seed)
    pixels, _ = _load_digits()
    cell_px = size_px // GRID
    canvas = np.full((size_px, size_px, 3), rng.randrange(48), dtype=np.float32)
    for item in scene.items:
        original = rng.choice(handwriting_pool(split, item.digit))
        side_px = rng.randint(cell_px * 11 // 16, cell_px * 14 // 16)
        top_px = item.row * cell_px + rng.randint(0, cell_px - side_px)
        left_px = item.column * cell_px + rng.randint(0, cell_px - side_px)
        resized = Image.fromarray(pixels[original]).resize((side_px, side_px), Image.Resampling.BILINEAR)
        ink = np.asarray(resized, dtype=np.float32)[..., None] / 255
        place = canvas[top_px : top_px + side_px, left_px : left_px + side_px]
        place += ink * (np.array(COLOURS[item.colour], dtype=np.float32) - place)
    buffer = io.BytesIO()
    Image.fromarray(canvas.round().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
