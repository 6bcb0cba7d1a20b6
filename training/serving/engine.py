"""A loaded version that answers batches of requests. Knows nothing of HTTP or Ray.

Shapes: B images, R rows of all requests, P patches, V vision width.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_prep.images import ImageError
from infra.digests import digest_bytes
from infra.errors import ConfigError
from training.asking import Asked, Reply
from training.predictor import Predictor
from training.serving.faults import Fault, Refused, fault_of_image
from training.serving.work import ModelFacts, Told, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.serving.similar import SimilarImages

MAX_ROWS = 64
"""Of a forward."""


class Engine:
    """Answers are those of `Predictor` for the same picture, alone or in a batch."""

    def __init__(self, predictor: Predictor, version: str, similar: SimilarImages | None = None) -> None:
        self.predictor, self.similar = predictor, similar
        card = predictor.package.card
        self.facts = ModelFacts(
            card.model_name, version, card.model_digest, predictor.tasks, card.answer_space.labels, similar is not None
        )

    def tell(self, works: Sequence[Work]) -> list[Told]:
        """One each. A request that cannot be answered has a fault, and costs the others nothing but time."""
        try:
            return self._told_together(works)
        except Exception as error:
            if len(works) > 1:
                return [told for work in works for told in self.tell([work])]
            if not isinstance(error, Refused | ConfigError | ImageError):
                traceback.print_exc()
                return [Told(fault=Fault("failed", "a fault of the server; see its log."))]
            return [Told(fault=fault_of(error))]

    def rows_of(self, work: Work) -> list[Asked]:
        """What the model is asked. Raises Refused for what it was not trained for."""
        image_id = digest_bytes(work.image)
        if work.labels:
            task, prompt = work.asked[0]
            row = self._asked(image_id, task, prompt)
            if row.kind == "classify":  # by a head, which knows its labels
                return [row]
            return [row._replace(kind="likelihood", target=label) for label in work.labels]
        return [self._asked(image_id, task, prompt) for task, prompt in work.asked]

    def _asked(self, image_id: str, task: str, prompt: str) -> Asked:
        if task not in self.predictor.tasks:
            raise Refused(
                "task_not_trained",
                f"{task} was asked; this model was trained for {', '.join(self.predictor.tasks)}. Ask for that.",
            )
        return self.predictor.asked(image_id, task, prompt)

    def _told_together(self, works: Sequence[Work]) -> list[Told]:
        rows = [self.rows_of(work) for work in works]
        places, patches_BPV = self._encoded(works)
        images = [place for place, asked in zip(places, rows, strict=True) for _ in asked]
        replies = self.replies(patches_BPV, images, [one for asked in rows for one in asked])
        told, start = [], 0
        for work, asked, place in zip(works, rows, places, strict=True):
            told.append(self._told(work, asked, replies[start : start + len(asked)], patches_BPV[place], len(works)))
            start += len(asked)
        return told

    def replies(self, patches_BPV: NDArray[np.float16], images: Sequence[int], asked: Sequence[Asked]) -> list[Reply]:
        """One per row, about the image at its place, in forwards of a bounded size."""
        found: list[Reply] = []
        for start in range(0, len(asked), MAX_ROWS):
            some = slice(start, start + MAX_ROWS)
            found += self.predictor.replies(patches_BPV[list(images[some])], asked[some])
        return found

    def _encoded(self, works: Sequence[Work]) -> tuple[list[int], NDArray[np.float16]]:
        """Each different picture once; and which of them is whose."""
        known: dict[bytes, int] = {}
        places = [known.setdefault(work.image, len(known)) for work in works]
        return places, self.predictor.tower.encode(list(known))

    def _told(
        self, work: Work, asked: Sequence[Asked], replies: Sequence[Reply], patches_PV: NDArray[np.float16], size: int
    ) -> Told:
        if work.num_neighbours:
            if self.similar is None:
                raise Refused("no_features", "this version's features are not in the store; expected them to be there.")
            return Told(neighbours=self.similar.nearest(patches_PV, work.num_neighbours), num_in_batch=size)
        if len(asked) == 1 and asked[0].kind == "classify":
            return Told(label_scores=_shares(self.facts.labels, replies[0].numbers), num_in_batch=size)
        if work.labels:
            return Told(label_scores=_shares(work.labels, [one.log_likelihood for one in replies]), num_in_batch=size)
        return Told(texts=tuple(reply.said for reply in replies), num_in_batch=size)


def _shares(labels: Sequence[str], scores: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Log-likelihoods as probabilities among these labels, the likeliest first."""
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    found = zip(labels, (weight / sum(weights) for weight in weights), strict=True)
    return tuple(sorted(found, key=lambda pair: -pair[1]))


def fault_of(error: Refused | ConfigError | ImageError) -> Fault:
    if isinstance(error, Refused):
        return error.fault
    if isinstance(error, ImageError):
        return fault_of_image(error)
    # Of a model that was trained for the task, only the length is left; the sentence of the error names folders.
    return Fault(
        "text_too_long", "the text and its answer do not fit the language model; expected a shorter text. Shorten it."
    )
