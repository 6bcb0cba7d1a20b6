"""CIDEr-D of Vedantam et al. 2015: cosines of n-gram counts weighted by rarity, as COCO's evaluation computes it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from training.metrics.ngrams import ORDERS, Ngrams

LENGTH_DEVIATION = 6.0
"""σ of the weight of a difference in length, in words."""
SCALE = 10.0


@dataclass(frozen=True, slots=True)
class Vector:
    """A text's n-gram counts, of which each is weighted by the rarity of its n-gram; for each of `ORDERS`."""

    counts: Ngrams
    norms: tuple[float, ...]
    num_pairs: int
    """Pairs of words next to each other: COCO's evaluation takes these for the length of the text."""


class Rarity:
    """How rare n-grams are over the references of all images: ln(images / images with the n-gram)."""

    def __init__(self, images: Sequence[Sequence[Ngrams]]):
        self._unseen = _log(len(images))
        self._seen: list[dict[str, float]] = []
        for at in range(len(ORDERS)):
            images_with: Counter[str] = Counter()
            for several in images:
                images_with.update(set().union(*(ngrams[at] for ngrams in several)))
            self._seen.append({ngram: self._unseen - _log(count) for ngram, count in images_with.items()})

    def vector(self, text: Ngrams) -> Vector:
        norms = []
        for counts, seen in zip(text, self._seen, strict=True):
            square = 0.0
            for ngram, count in counts.items():
                square += (count * seen.get(ngram, self._unseen)) ** 2
            norms.append(math.sqrt(square))
        return Vector(text, tuple(norms), sum(text[1].values()))

    def cider_d(self, text: Vector, references: Sequence[Vector]) -> float:
        """The mean over references and `ORDERS` of the cosine, clipped so that repeating a word gains nothing.

        0 where nothing is in common, and where nothing is rare."""
        by_order = [0.0] * len(ORDERS)
        for reference in references:
            weight = _length_weight(text.num_pairs - reference.num_pairs)
            for at, (ours, theirs) in enumerate(zip(text.counts, reference.counts, strict=True)):
                common, rarity = 0.0, self._seen[at]
                for ngram, count in ours.items():
                    if ngram in theirs:
                        wanted = theirs[ngram] * rarity[ngram]
                        common += min(count * rarity[ngram], wanted) * wanted
                if common:
                    by_order[at] += common / (text.norms[at] * reference.norms[at]) * weight
        total = 0.0
        for score in by_order:
            total += score  # not `sum`, whose last bits differ between versions of Python
        return total / len(ORDERS) / len(references) * SCALE


@cache
def _log(count: int) -> float:
    """NumPy's, whose last bit is not always that of `math.log`."""
    return float(np.log(float(count)))


@cache
def _length_weight(difference: int) -> float:
    return float(math.e ** (-(float(difference) ** 2) / (2 * LENGTH_DEVIATION**2)))
