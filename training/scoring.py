"""Predictions → scores, per example, per slice and over all. One rule for the model and for its control."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_prep.dataset import Example
from training.metrics.captions import caption_exact_match, score_captions
from training.metrics.vqa import vqa_accuracy
from training.report import Slice

MAX_SLICES_PER_ATTRIBUTE = 24
"""An attribute with more values names examples, not slices."""
MEAN_KEYS = ("accuracy", "vqa_accuracy", "caption_exact_match", "rouge_l", "cider_d")
"""Metrics of a set that are the mean of its examples'."""
Scores = dict[str, dict[str, float]]
"""By example_id, by metric."""


def score(examples: Sequence[Example], predictions: Mapping[str, str]) -> tuple[dict[str, float], Scores]:
    """(metrics over all, scores of each example)."""
    per_example: Scores = {}
    metrics: dict[str, float] = {}
    questions = [example for example in examples if example.task == "vqa"]
    captions = [example for example in examples if example.task == "caption"]
    for example in (example for example in examples if example.task == "classify"):
        per_example[example.example_id] = {"accuracy": float(predictions[example.example_id] == example.label)}
    for example in questions:
        accuracy = vqa_accuracy(predictions[example.example_id], example.targets)
        per_example[example.example_id] = {"vqa_accuracy": accuracy}
    if captions:
        texts = [predictions[example.example_id] for example in captions]
        found = score_captions(texts, [example.targets for example in captions])
        for row, example in enumerate(captions):
            scores = {name: values[row] for name, values in found.per_example.items()}
            scores["caption_exact_match"] = caption_exact_match(texts[row], example.targets)
            per_example[example.example_id] = scores
        metrics |= found.corpus
    return metrics | _means(examples, per_example), per_example


def slices(examples: Sequence[Example], scores: Scores, control: Scores) -> list[Slice]:
    """Scores by task, by source and by each attribute with few values."""
    groups: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        for name, value in {"task": example.task, "source": example.source, **example.attributes}.items():
            groups[(name, value)].append(example)
    values = defaultdict(set)
    for name, value in groups:
        values[name].add(value)
    return [
        Slice(
            name=name,
            value=value,
            num_examples=len(members),
            metrics=_means(members, scores),
            control=_means(members, control),
        )
        for (name, value), members in sorted(groups.items())
        if 1 < len(values[name]) <= MAX_SLICES_PER_ATTRIBUTE
    ]


def headline(scores: Mapping[str, float]) -> float:
    """One figure to rank examples by, whatever their task."""
    return next((scores[name] for name in ("vqa_accuracy", "accuracy", "cider_d", "rouge_l") if name in scores), 0.0)


def _means(examples: Sequence[Example], per_example: Scores) -> dict[str, float]:
    means: dict[str, float] = {}
    for name in MEAN_KEYS:
        found = [scores[name] for example in examples if name in (scores := per_example[example.example_id])]
        if found:
            means[name] = sum(found) / len(found)
    return means
