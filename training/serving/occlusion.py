"""Which parts of a picture carried an answer: hide one after the other, and see how much unlikelier the answer gets.

Zeiler and Fergus 2014, with log-likelihoods of a text. Parts are hidden in the picture, not in its patch features:
every patch of a transformer knows of the others.
Shapes: G cells a side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.images import ImageError, decode
from infra.digests import digest_bytes
from infra.errors import ConfigError
from training.serving.engine import Engine, fault_of
from training.serving.faults import Refused
from training.serving.work import Carried, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

CELLS_A_SIDE = 6
MAX_SIDE_PX = 448
"""The picture is made smaller than this first: a part more or less is seen as well, and 37 large ones take long."""


def occlude(engine: Engine, work: Work) -> Carried:
    """Of the first thing that is asked, answered as always and then explained."""
    try:
        return _carried(engine, work)
    except (Refused, ConfigError, ImageError) as error:
        return Carried(fault=fault_of(error))


def _carried(engine: Engine, work: Work) -> Carried:
    import numpy as np

    (asked,) = engine.rows_of(Work(work.image, work.asked[:1]))
    if asked.kind != "text":
        raise Refused("task_not_trained", "only texts are explained; this answer is no text. Ask for a text.")
    (told,) = engine.tell([Work(work.image, work.asked[:1])])
    if told.fault is not None:
        return Carried(fault=told.fault)
    (answer,) = told.texts
    picture = decode(work.image)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    shown = [picture, *_with_hidden_cells(picture)]
    tower = engine.predictor.tower
    features_BPV = np.concatenate([_encoded(engine, some) for some in _some_at_a_time(shown, tower.batch_size)])
    row = asked._replace(kind="likelihood", target=answer, image_id=digest_bytes(work.image))
    replies = engine.replies(features_BPV, range(len(shown)), [row] * len(shown))
    whole, *hidden = (reply.log_likelihood for reply in replies)
    falls = [whole - value for value in hidden]
    grid = [tuple(falls[start : start + CELLS_A_SIDE]) for start in range(0, len(falls), CELLS_A_SIDE)]
    return Carried(answer, tuple(grid))


def _encoded(engine: Engine, pictures: list[Image]) -> NDArray[np.float16]:
    tower = engine.predictor.tower
    return tower.encode_pixels(tower.pixels(pictures))


def _some_at_a_time(pictures: list[Image], size: int) -> list[list[Image]]:
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def _with_hidden_cells(picture: Image) -> list[Image]:
    """G × G copies, each with one cell in the picture's mean colour."""
    import numpy as np

    width, height = picture.size
    colour = tuple(int(value) for value in np.asarray(picture).reshape(-1, 3).mean(axis=0).round())
    columns = [round(width * number / CELLS_A_SIDE) for number in range(CELLS_A_SIDE + 1)]
    lines = [round(height * number / CELLS_A_SIDE) for number in range(CELLS_A_SIDE + 1)]
    found = []
    for row in range(CELLS_A_SIDE):
        for column in range(CELLS_A_SIDE):
            copy = picture.copy()
            copy.paste(colour, (columns[column], lines[row], columns[column + 1], lines[row + 1]))
            found.append(copy)
    return found
