"""ROUGE-L of Lin 2004: the longest common subsequence of words, as COCO's evaluation computes it."""

from collections.abc import Mapping, Sequence

from training.metrics.ngrams import Words

RECALL_WEIGHT = 1.2
"""β: how much more the share of a reference's words counts than the share of the text's."""


def rouge_l(text: Words, references: Sequence[Words]) -> float:
    """The best precision with the best recall; 0 where text or references have no words."""
    places: dict[str, int] = {}
    for place, word in enumerate(text):
        places[word] = places.get(word, 0) | 1 << place
    common = [_longest_common(places, len(text), reference) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(text)
    recall = max(found / len(reference) for found, reference in zip(common, references, strict=True) if reference)
    return ((1 + RECALL_WEIGHT**2) * precision * recall) / (recall + RECALL_WEIGHT**2 * precision)


def _longest_common(places: Mapping[str, int], length: int, other: Words) -> int:
    """Its length, by one addition per word over all places of the text, each of which is a bit (Hyyrö 2004)."""
    whole = (1 << length) - 1
    free = whole
    """Places that end no longer subsequence than the place before them does."""
    for word in other:
        if word in places:
            matching = free & places[word]
            free = ((free + matching) | (free - matching)) & whole
    return length - free.bit_count()
