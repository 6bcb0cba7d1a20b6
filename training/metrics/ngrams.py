"""How often the n-grams of a text occur in it."""

from collections import Counter
from collections.abc import Mapping

ORDERS = (1, 2, 3, 4)
"""Lengths of n-grams, in words."""
Words = tuple[str, ...]
Ngrams = tuple[Mapping[Words, int], ...]
"""Occurrences by n-gram, for each of `ORDERS`; in the order of the text, so that sums over them have the same bits."""


def count_ngrams(words: Words) -> Ngrams:
    return tuple(Counter(zip(*(words[start:] for start in range(order)), strict=False)) for order in ORDERS)
