"""Replies → scores, per example, per slice and over all. One rule for the model and for its controls."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from data_prep.dataset import Example
from training.asking import Reply
from training.metrics.bootstrap import interval
from training.metrics.captions import CaptionScorer, caption_exact_match
from training.metrics.classification import ClassificationScores, classification_scores
from training.metrics.regression import regression_scores
from training.metrics.vqa import vqa_accuracy
from training.objectives.answer_space import AnswerSpace
from training.promotion_rule import EXAMPLE_METRICS
from training.report import ClassScores, Confusion, Range, Slice

CONFIDENCE = 0.95
MAX_CONFUSED_LABELS = 24
"""A larger matrix is no picture any more."""
OTHER = "(no label)"
"""What a text that is no label counts as."""
ANSWER_LENGTHS = ((1, "1"), (2, "2"), (3, "3"), (6, "4 to 6"), (12, "7 to 12"))
"""Words of an example's first target up to which it falls in this slice."""
MAX_SLICES_PER_ATTRIBUTE = 24
"""An attribute with more values names examples, not slices."""
Scores = dict[str, dict[str, float]]
"""By example_id, by metric."""


class Scorer:
    """Scores replies to the same examples, as often as there are replies: targets are counted once."""

    def __init__(self, examples: Sequence[Example], space: AnswerSpace):
        """`space` is what heads choose from."""
        self._examples, self._space = examples, space
        self._captions = _of_task(examples, "caption")
        self._caption_scorer = CaptionScorer([one.targets for one in self._captions]) if self._captions else None

    def score(self, replies: Mapping[str, Reply]) -> tuple[dict[str, float], Scores]:
        """(metrics over all, scores of each example). `replies` are by example_id."""
        per_example: Scores = {}
        metrics: dict[str, float] = {}
        labelled, numbered = (_of_task(self._examples, task) for task in ("classify", "regress"))
        for example in labelled:
            per_example[example.example_id] = {"accuracy": float(replies[example.example_id].text == example.label)}
        if labelled:
            metrics |= _classified(labelled, replies, self._space).metrics
        for example in _of_task(self._examples, "vqa"):
            accuracy = vqa_accuracy(replies[example.example_id].text, example.targets)
            per_example[example.example_id] = {"vqa_accuracy": accuracy}
        if self._caption_scorer:
            texts = [replies[example.example_id].text for example in self._captions]
            found = self._caption_scorer.score(texts)
            for row, example in enumerate(self._captions):
                scores = {name: values[row] for name, values in found.per_example.items()}
                scores["caption_exact_match"] = caption_exact_match(texts[row], example.targets)
                per_example[example.example_id] = scores
            metrics |= found.corpus
        if numbered:
            said = [replies[example.example_id].numbers for example in numbered]
            metrics |= regression_scores([example.numbers for example in numbered], said).metrics
            for example, numbers in zip(numbered, said, strict=True):
                per_example[example.example_id] = {"neg_mse": -_scaled_error(example, numbers, self._space)}
        return metrics | means(self._examples, per_example), per_example


def _scaled_error(example: Example, numbers: Sequence[float], space: AnswerSpace) -> float:
    """Mean square, each number in units of its standard deviation over the train split."""
    pairs = zip(example.numbers, numbers, space.number_deviations, strict=True)
    return math.fsum(((wanted - said) / unit) ** 2 for wanted, said, unit in pairs) / len(numbers)


def by_label(
    examples: Sequence[Example], replies: Mapping[str, Reply], space: AnswerSpace
) -> tuple[list[ClassScores], Confusion | None]:
    """Scores of each label of `classify`, and which was taken for which where there are few of them."""
    labelled = _of_task(examples, "classify")
    if not labelled:
        return [], None
    found, labels = _classified(labelled, replies, space), _labels(labelled, space)
    counts = Counter(example.label for example in labelled)
    classes = [
        ClassScores(
            label=label,
            num_examples=counts[label],
            **{kind: found.per_class[label][kind] for kind in ("precision", "recall", "f1")},
        )
        for label in labels
        if label in found.per_class
    ]
    if len(labels) > MAX_CONFUSED_LABELS:
        return classes, None
    return classes, Confusion(labels=labels, said=[*labels, OTHER], counts=[list(row) for row in found.confusion])


def intervals(examples: Sequence[Example], scores: Scores) -> dict[str, Range]:
    """Of the metrics that are means over examples, images drawn anew."""
    found: dict[str, Range] = {}
    for name in EXAMPLE_METRICS:
        scored = [example for example in examples if name in scores[example.example_id]]
        if scored:
            values = [scores[example.example_id][name] for example in scored]
            between = interval(values, [example.image_id for example in scored], CONFIDENCE)
            found[name] = Range(low=between.low, high=between.high)
    return found


def slices(examples: Sequence[Example], scores: Scores, control: Scores) -> list[Slice]:
    """Scores by task, by source, by length of the answer and by each attribute with few values."""
    groups: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        for name, value in slice_values(example).items():
            groups[(name, value)].append(example)
    values = defaultdict(set)
    for name, value in groups:
        values[name].add(value)
    return [
        Slice(
            name=name,
            value=value,
            num_examples=len(members),
            metrics=means(members, scores),
            control=means(members, control),
            intervals=intervals(members, scores),
        )
        for (name, value), members in sorted(groups.items())
        if 1 < len(values[name]) <= MAX_SLICES_PER_ATTRIBUTE
    ]


def slice_values(example: Example) -> dict[str, str]:
    """Slice → the example's value in it, for the report and for `promotion.slice_floors`. An attribute that is called
    like one of the three that every example has is not seen."""
    told = {"task": example.task, "source": example.source, "answer_words": _answer_words(example)}
    return {**example.attributes, **told}


def headline(scores: Mapping[str, float]) -> float:
    """One figure to rank examples by, whatever their task."""
    return next(
        (scores[name] for name in ("vqa_accuracy", "accuracy", "cider_d", "rouge_l", "neg_mse") if name in scores), 0.0
    )


def _of_task(examples: Sequence[Example], task: str) -> list[Example]:
    return [example for example in examples if example.task == task]


def _labels(labelled: Sequence[Example], space: AnswerSpace) -> list[str]:
    """Of the test split, and those that a head chooses from."""
    return sorted({*space.labels, *(example.label for example in labelled)})


def _classified(labelled: Sequence[Example], replies: Mapping[str, Reply], space: AnswerSpace) -> ClassificationScores:
    """A text that is no label counts as none. A label that the head does not know has no score: then none is used."""
    names = _labels(labelled, space)
    found = [replies[example.example_id] for example in labelled]
    scores = [reply.numbers for reply in found] if names == list(space.labels) else None
    return classification_scores([example.label for example in labelled], [one.text for one in found], scores, names)


def _answer_words(example: Example) -> str:
    num_words = len(example.targets[0].split()) if example.targets else 0
    return next((told for most, told in ANSWER_LENGTHS if num_words <= most), f"above {ANSWER_LENGTHS[-1][0]}")


def means(examples: Sequence[Example], per_example: Scores) -> dict[str, float]:
    """Of the metrics that are means over examples."""
    found_means: dict[str, float] = {}
    for name in EXAMPLE_METRICS:
        found = [scores[name] for example in examples if name in (scores := per_example[example.example_id])]
        if found:
            found_means[name] = math.fsum(found) / len(found)
    return found_means
