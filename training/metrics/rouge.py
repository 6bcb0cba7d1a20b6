"""ROUGE-L of Lin 2004: the longest common subsequence of words, as COCO's evaluation computes it."""

from collections.abc import Sequence

from training.metrics.ngrams import Words

RECALL_WEIGHT = 1.2
"""β: how much more the share of a reference's words counts than the share of the text's."""


class RougeReferences:
    """The references of one image: for each, the places of its words as bits."""

    def __init__(self, references: Sequence[Words]):
        self._places = [_places(words) for words in references]
        self._lengths = [len(words) for words in references]

    def score(self, text: Words) -> float:
        """The best precision with the best recall; 0 where text or references have no words."""
        if not text or not any(self._lengths):
            return 0.0
        common = [
            _longest_common(text, places, length) for places, length in zip(self._places, self._lengths, strict=True)
        ]
        precision = max(common) / len(text)
        recall = max(found / length for found, length in zip(common, self._lengths, strict=True) if length)
        if not precision:
            return 0.0
        return ((1 + RECALL_WEIGHT**2) * precision * recall) / (recall + RECALL_WEIGHT**2 * precision)


def _places(words: Words) -> dict[str, int]:
    found: dict[str, int] = {}
    for place, word in enumerate(words):
        found[word] = found.get(word, 0) | 1 << place
    return found


def _longest_common(text: Words, places: dict[str, int], length: int) -> int:
    """Its length, by one addition per word of the text over all places of the reference (Hyyrö 2004)."""
    whole = (1 << length) - 1
    free = whole
    """Places that end no longer subsequence than the place before them does."""
    for word in text:
        matching = free & places.get(word, 0)
        free = ((free + matching) | (free - matching)) & whole
    return length - free.bit_count()
