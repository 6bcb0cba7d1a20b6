"""Caption scores: BLEU-1..4, ROUGE-L, CIDEr-D and exact match.

The scorers are pycocoevalcap's pure-Python ones (Chen et al. 2015, "Microsoft COCO Captions"), fed with our own
tokens, so that nothing calls Java. BLEU: Papineni et al. 2002; ROUGE-L: Lin 2004; CIDEr-D: Vedantam et al. 2015.

There is no METEOR: the reference is Java, and NLTK's is an earlier formula (nltk issue 2655 tells 0.68 for the
reference's 0.42), which would be taken for the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from infra.errors import DataError
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


def score_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score one prediction per image against all references of that image.

    Scores do not depend on the order of the examples. A prediction without words scores 0 on every metric, and
    so does one whose references have none. Raises DataError on no examples, on lengths that differ and on an
    example without references.
    """
    _check(predictions, references)
    hypotheses = [_spaced(prediction) for prediction in predictions]
    targets = [[_spaced(reference) for reference in several] for several in references]
    # A reference without words ("?") would count as a shortest reference in BLEU and as a perfect match in ROUGE-L.
    targets = [[target for target in several if target] or [""] for several in targets]

    corpus, per_example = _bleu(hypotheses, targets)
    per_example["rouge_l"] = _rouge(hypotheses, targets)
    corpus["rouge_l"] = _mean(per_example["rouge_l"])
    if len(hypotheses) > 1:
        per_example["cider_d"] = _cider(hypotheses, targets)
        corpus["cider_d"] = _mean(per_example["cider_d"])
    return CaptionScores(corpus=corpus, per_example=per_example)


@lru_cache(MAX_REMEMBERED)
def _spaced(caption: str) -> str:
    """Its tokens with spaces between them. The references are asked for once more by the control."""
    return " ".join(tokenize_caption(caption))


def caption_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction is one of the references up to case and white space, else 0.0."""
    return float(_plain(prediction) in {_plain(reference) for reference in references})


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(predictions, str) or any(isinstance(several, str) for several in references):
        raise DataError("found a bare string; expected a list of predictions and, per example, a list of references")
    if len(predictions) != len(references) or not predictions:
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} lists of references; expected as many of each, "
            f"and at least one. Pass one prediction per image."
        )
    bare = [index for index, several in enumerate(references) if not several]
    if bare:
        raise DataError(f"example {bare[0]} ({len(bare)} in all) has no reference; leave it out or give it one")


def _bleu(hypotheses: list[str], targets: list[list[str]]) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """For n = 1..4, the score of the corpus and that of each example."""
    from pycocoevalcap.bleu.bleu import Bleu

    corpus, columns = Bleu(4).compute_score(dict(enumerate(targets)), _as_results(hypotheses), verbose=0)
    if not any(hypotheses):
        corpus = [0.0] * 4
    per_example = {
        key: tuple(float(score) if hypothesis else 0.0 for hypothesis, score in zip(hypotheses, column, strict=True))
        for key, column in zip(BLEU_KEYS, columns, strict=True)
    }
    return dict(zip(BLEU_KEYS, map(float, corpus), strict=True)), per_example


def _rouge(hypotheses: list[str], targets: list[list[str]]) -> tuple[float, ...]:
    from pycocoevalcap.rouge.rouge import Rouge

    rouge = Rouge()
    return tuple(
        float(rouge.calc_score([hypothesis], several)) if hypothesis else 0.0
        for hypothesis, several in zip(hypotheses, targets, strict=True)
    )


def _cider(hypotheses: list[str], targets: list[list[str]]) -> tuple[float, ...]:
    from pycocoevalcap.cider.cider import Cider

    if not any(any(several) for several in targets):
        return (0.0,) * len(hypotheses)  # the scorer fails on a reference set without a single word
    _, scores = Cider().compute_score(dict(enumerate(targets)), _as_results(hypotheses))
    return tuple(map(float, scores))


def _as_results(hypotheses: list[str]) -> dict[int, list[str]]:
    return {index: [hypothesis] for index, hypothesis in enumerate(hypotheses)}


def _mean(scores: Sequence[float]) -> float:
    """Exactly rounded, so that the order of the examples cannot show in the last bits."""
    return math.fsum(scores) / len(scores)
