"""BLEU-1..4 of Papineni et al. 2002, with the closest reference length, as COCO's evaluation computes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.metrics.ngrams import ORDERS, Ngrams, Words

NO_MATCH = 1e-15
NO_NGRAM = 1e-9
"""What COCO's evaluation adds above and below the line, so that no match and no n-gram are no cases of their own."""


@dataclass(frozen=True)
class Overlap:
    """Of one text with its references, or of several texts each with its own."""

    num_words: int
    num_reference_words: int
    """Of the reference that is closest in length."""
    possible: tuple[int, ...]
    """n-grams of the text, for each of `ORDERS`."""
    matched: tuple[int, ...]
    """Those that the references have too."""


class BleuReferences:
    """The references of one image, counted."""

    def __init__(self, references: Sequence[Ngrams]):
        self._lengths = [sum(ngrams[0].values()) for ngrams in references]
        self._most: tuple[dict[Words, int], ...] = tuple({} for _ in ORDERS)
        for ngrams in references:
            for most, counts in zip(self._most, ngrams, strict=True):
                for ngram, count in counts.items():
                    if most.get(ngram, 0) < count:
                        most[ngram] = count

    def overlap(self, text: Ngrams) -> Overlap:
        """An n-gram counts as often as in one of the references at most."""
        num_words = sum(text[0].values())
        matched = (
            sum(min(count, most[ngram]) for ngram, count in counts.items() if ngram in most)
            for counts, most in zip(text, self._most, strict=True)
        )
        _, closest = min((abs(length - num_words), length) for length in self._lengths)
        possible = tuple(max(0, num_words - order + 1) for order in ORDERS)
        return Overlap(num_words, closest, possible, tuple(matched))


def over_all(overlaps: Sequence[Overlap]) -> Overlap:
    """That of a corpus: counts are pooled."""
    return Overlap(
        sum(one.num_words for one in overlaps),
        sum(one.num_reference_words for one in overlaps),
        tuple(map(sum, zip(*(one.possible for one in overlaps), strict=True))),
        tuple(map(sum, zip(*(one.matched for one in overlaps), strict=True))),
    )


def bleu(overlap: Overlap) -> tuple[float, ...]:
    """For n = 1..4; 0 for a text without words."""
    if not overlap.num_words:
        return (0.0,) * len(ORDERS)
    ratio = (overlap.num_words + NO_MATCH) / (overlap.num_reference_words + NO_NGRAM)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for order, matched, possible in zip(ORDERS, overlap.matched, overlap.possible, strict=True):
        product *= (matched + NO_MATCH) / (possible + NO_NGRAM)
        scores.append(product ** (1 / order) * brevity)
    return tuple(scores)
