"""How often the n-grams of a text occur in it."""

from collections.abc import Mapping

ORDERS = (1, 2, 3, 4)
"""Lengths of n-grams, in words."""
Words = tuple[str, ...]
Ngrams = tuple[Mapping[str, int], ...]
"""Occurrences by n-gram, for each of `ORDERS`; in the order of the text, so that sums over them have the same bits. An
n-gram is its words with spaces between them: a string knows its hash, where a tuple computes it at every look."""


def count_ngrams(words: Words) -> Ngrams:
    found, ngrams = [_counted(words)], words
    for order in ORDERS[1:]:
        ngrams = tuple([f"{begun} {word}" for begun, word in zip(ngrams, words[order - 1 :], strict=False)])
        found.append(_counted(ngrams))
    return tuple(found)


def _counted(ngrams: Words) -> dict[str, int]:
    counts: dict[str, int] = {}
    for ngram in ngrams:
        counts[ngram] = counts.get(ngram, 0) + 1
    return counts
