"""BLEU-1..4 of Papineni et al. 2002, with the closest reference length, as COCO's evaluation computes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.metrics.ngrams import ORDERS, Ngrams

NO_MATCH = 1e-15
NO_NGRAM = 1e-9
"""What COCO's evaluation adds above and below the line, so that no match and no n-gram are no cases of their own."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of one text with its references, or of several texts each with its own."""

    num_words: int
    num_reference_words: int
    """Of the reference that is closest in length."""
    possible: tuple[int, ...]
    """n-grams of the text, for each of `ORDERS`."""
    matched: tuple[int, ...]
    """Those that the references have too."""


def overlap(text: Ngrams, references: Sequence[Ngrams]) -> Overlap:
    """An n-gram counts as often as in one of the references at most."""
    num_words = _num_words(text)
    _, closest = min((abs(length - num_words), length) for length in map(_num_words, references))
    matched = []
    for counts, several in zip(text, zip(*references, strict=True), strict=True):
        total = 0
        for ngram, count in counts.items():
            most = 0
            for there in several:
                if ngram in there and there[ngram] > most:
                    most = there[ngram]
            total += min(count, most)
        matched.append(total)
    possible = tuple(max(0, num_words - order + 1) for order in ORDERS)
    return Overlap(num_words, closest, possible, tuple(matched))


def _num_words(text: Ngrams) -> int:
    return sum(text[0].values())


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
