"""Caption scores: BLEU-1..4, ROUGE-L, CIDEr-D and exact match.

To the bit what pycocoevalcap's scorers (Chen et al. 2015, "Microsoft COCO Captions") say of the same tokens. Those
count the references anew for every set of predictions, and an evaluation has three: with the images, and two controls.

There is no METEOR: the reference is Java, and NLTK's is an earlier formula (nltk issue 2655 tells 0.68 for the
reference's 0.42), which would be taken for the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from infra.errors import DataError
from training.metrics.bleu import bleu, over_all, overlap
from training.metrics.cider import Rarity
from training.metrics.ngrams import Words, count_ngrams
from training.metrics.rouge import rouge_l
from training.metrics.tokenize import tokenize_caption

BLEU_KEYS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
CAPTION_KEYS = (*BLEU_KEYS, "rouge_l", "cider_d")
MAX_REMEMBERED = 2**16
"""Captions whose tokens are kept."""


@dataclass(frozen=True)
class CaptionScores:
    """Scores under the keys of `CAPTION_KEYS`; BLEU and ROUGE-L lie in 0..1, CIDEr-D in 0..10.

    `cider_d` is absent, in both, when there is one example only: its weights are document frequencies over the
    examples, and over a single document every one of them is zero.
    """

    corpus: dict[str, float]
    per_example: dict[str, tuple[float, ...]]
    """In the order of the predictions. The corpus BLEU is not the mean of these (it pools n-gram counts); the corpus
    ROUGE-L and CIDEr-D are. A slice's CIDEr-D is the mean of its examples here, so that all slices share one set of
    document frequencies."""


class CaptionScorer:
    """Scores predictions against the references of the same images, which are counted once.

    Raises DataError on no images and on an image without references.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        if any(isinstance(several, str) for several in references):
            raise DataError("found a bare string; expected a list of references per image")
        bare = [index for index, several in enumerate(references) if not several]
        if bare or not references:
            found = f"image {bare[0]} ({len(bare)} in all) has no reference" if bare else "found no images"
            raise DataError(f"{found}; expected at least one image, and for each a reference. Leave the others out.")
        # A reference without words ("?") would count as a shortest reference in BLEU and as a perfect match in ROUGE-L.
        self._words = [[words for text in several if (words := _words(text))] or [()] for several in references]
        self._ngrams = [[count_ngrams(words) for words in several] for several in self._words]
        self._rarity = Rarity(self._ngrams)
        self._vectors = [[self._rarity.vector(ngrams) for ngrams in several] for several in self._ngrams]

    def score(self, predictions: Sequence[str]) -> CaptionScores:
        """Score one prediction per image against all references of that image.

        Scores do not depend on the order of the images. A prediction without words scores 0 on every metric, and
        so does one whose references have none. Raises DataError on more or fewer predictions than images.
        """
        if isinstance(predictions, str) or len(predictions) != len(self._words):
            found = "a bare string" if isinstance(predictions, str) else f"{len(predictions)} predictions"
            raise DataError(f"found {found} for {len(self._words)} images; expected a list of one prediction per image")
        worded = [_words(prediction) for prediction in predictions]
        counted = [count_ngrams(words) for words in worded]
        overlaps = list(map(overlap, counted, self._ngrams))
        corpus = dict(zip(BLEU_KEYS, bleu(over_all(overlaps)), strict=True))
        per_example = dict(zip(BLEU_KEYS, zip(*map(bleu, overlaps), strict=True), strict=True))
        per_example["rouge_l"] = tuple(map(rouge_l, worded, self._words))
        if len(counted) > 1:
            vectors = map(self._rarity.vector, counted)
            per_example["cider_d"] = tuple(map(self._rarity.cider_d, vectors, self._vectors))
        corpus |= {key: _mean(per_example[key]) for key in per_example if key not in corpus}
        return CaptionScores(corpus=corpus, per_example=per_example)


@lru_cache(MAX_REMEMBERED)
def _words(caption: str) -> Words:
    """Models repeat themselves. A token with white space in it (`<a b>`) is as many words."""
    return tuple(" ".join(tokenize_caption(caption)).split())


def caption_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction is one of the references up to case and white space, else 0.0."""
    return float(_plain(prediction) in {_plain(reference) for reference in references})


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _mean(scores: Sequence[float]) -> float:
    """Exactly rounded, so that the order of the examples cannot show in the last bits."""
    return math.fsum(scores) / len(scores)
