"""From stored bytes to pixels, in threads ahead of the tower, a bounded number of images at a time.

Shapes: B images and their views, C channels, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from data_prep.images import decode
from data_prep.tower import Tower
from data_prep.views import view_names, view_of
from infra.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

IMAGES_PER_TASK = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PixelBatch:
    """Rows of one forward: which image and view each is, and its pixels."""

    image_ids: list[str]
    views: list[str]
    pixels_BCHW: NDArray[np.float32]


def pixel_batches(images: Iterable[tuple[str, bytes]], tower: Tower, threads: int) -> Iterator[PixelBatch]:
    """Every image with its views, in batches of the tower's size; the last may be smaller. While the tower works on
    one batch, the next is made. Raises DataError naming an image that cannot be decoded."""
    import numpy as np

    depth = -(-tower.batch_size // (IMAGES_PER_TASK * (1 + tower.config.views))) + threads
    image_ids: list[str] = []
    views: list[str] = []
    pixels: list[Any] = []
    with ThreadPoolExecutor(threads, "preprocess") as pool:
        for made in _ahead(pool, lambda some: _prepared(some, tower), _some_at_a_time(images), depth):
            image_ids += made.image_ids
            views += made.views
            pixels.extend(made.pixels_BCHW)
            while len(pixels) >= tower.batch_size:
                size = tower.batch_size
                yield PixelBatch(image_ids[:size], views[:size], np.stack(pixels[:size]))
                image_ids, views, pixels = image_ids[size:], views[size:], pixels[size:]
        if pixels:
            yield PixelBatch(image_ids, views, np.stack(pixels))


def _prepared(images: Sequence[tuple[str, bytes]], tower: Tower) -> PixelBatch:
    """Of pictures in full size at most one view each is held."""
    import numpy as np

    names = view_names(tower.config.views)
    pictures = [_decoded(image_id, data) for image_id, data in images]
    if len(names) == 1:
        pixels_BCHW = tower.pixels(pictures)
    else:
        views = (
            view_of(picture, image_id, number, tower.config.view_seed)
            for (image_id, _), picture in zip(images, pictures, strict=True)
            for number in range(len(names))
        )
        pixels_BCHW = np.concatenate([tower.pixels([view]) for view in views])
    image_ids = [image_id for image_id, _ in images for _ in names]
    return PixelBatch(image_ids, names * len(images), pixels_BCHW)


def _decoded(image_id: str, data: bytes) -> Image:
    try:
        return decode(data)
    except DataError as error:
        raise DataError(f"image {image_id[:12]}…: {error}") from error


def _some_at_a_time(images: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    remaining = iter(images)
    while some := list(islice(remaining, IMAGES_PER_TASK)):
        yield some


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Results in order, at most `depth` of them made before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
