"""What speaks for and against a model: scores held against a rule, with the reasons in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import ConfigError, IntegrityError
from training.promotion_rule import EXAMPLE_METRICS, ControlMargin, PromotionRule

if TYPE_CHECKING:
    from training.metrics.bootstrap import PairedGain

MINIMUM_IMAGES = 20
"""With fewer, a bootstrap's interval is too narrow: of 1,000 equal models, 53 seemed better on 12 images, and 38 at
most on 20."""


@dataclass(frozen=True)
class ExampleScores:
    """One test example: what it is and how it was answered."""

    example_id: str
    image_id: str
    scores: Mapping[str, float]
    slices: Mapping[str, str]
    """See `training.scoring.slice_values`."""


@dataclass(frozen=True)
class FirstTest:
    """The first evaluation of a champion that is still there: which it was, in words, and on what."""

    told: str
    example_ids: frozenset[str]


@dataclass(frozen=True)
class ModelScores:
    """One model on one test split; `control` holds the same metrics with the images swapped, `blind` with none."""

    model_digest: str
    metrics: Mapping[str, float]
    control: Mapping[str, float]
    blind: Mapping[str, float]
    examples: Sequence[ExampleScores]
    first_test: FirstTest | None = None
    """Of a champion, where the rule bounds forgetting. Today's examples may be others."""


def holds_floors(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    """Whether the model is above every floor and every slice's floor, with the reasons. Raises ConfigError as
    `decide_promotion` does."""
    floors_passed, floor_reasons = _against_floors(scores, rule)
    slices_passed, slice_reasons = _against_slice_floors(scores, rule)
    return floors_passed and slices_passed, floor_reasons + slice_reasons


def against_control(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    for name, margin in sorted(rule.control_margins.items()):
        value = _of(scores.metrics, name, "metrics")
        for how, values in (("with swapped images", scores.control), ("without an image", scores.blind)):
            holds, told = _above(value, _of(values, name, f"metrics {how}"), margin)
            passed &= holds
            reasons += [f"{name} is {value:.4f}, {how} {reason}" for reason in told]
    return passed, reasons


def _above(value: float, control: float, margin: ControlMargin) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    if margin.minimum_difference is not None:
        holds = value - control >= margin.minimum_difference
        passed &= holds
        asked = f"{_verdict(holds)} {margin.minimum_difference:.4f}"
        reasons.append(f"{control:.4f}: a difference of {value - control:.4f}, {asked}")
    if margin.minimum_ratio is not None:
        # A product, because the control can be zero; and then only a positive value has looked.
        holds = value >= margin.minimum_ratio * control and value > 0
        passed &= holds
        ratio = f"{value / control:.2f}" if control else "no finite number of"
        reasons.append(f"{control:.4f}: {ratio} times that, {_verdict(holds)} {margin.minimum_ratio:.2f} times")
    return passed, reasons


def _against_floors(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    for name, floor in sorted(rule.floors.items()):
        value = _of(scores.metrics, name, "metrics")
        passed &= value >= floor
        reasons.append(f"{name} is {value:.4f}, {_verdict(value >= floor)} {floor:.4f}")
    return passed, reasons


def _against_slice_floors(scores: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    passed, reasons = True, []
    for asked in rule.slice_floors:
        found = [
            example.scores[asked.metric]
            for example in scores.examples
            if example.slices.get(asked.attribute) == asked.value and asked.metric in example.scores
        ]
        where = f"{asked.attribute}={asked.value}"
        if not found:
            raise ConfigError(
                f"promotion.slice_floors: no test example with {where} has a score of {asked.metric}; expected some. "
                "Correct the rule or the test split."
            )
        value = math.fsum(found) / len(found)
        passed &= value >= asked.floor
        reasons.append(
            f"{asked.metric} is {value:.4f} on the {len(found)} examples with {where}, "
            f"{_verdict(value >= asked.floor)} {asked.floor:.4f}"
        )
    return passed, reasons


def against_champion(champion: ModelScores, challenger: ModelScores, rule: PromotionRule) -> tuple[bool, str]:
    """Whether the gain is surely above the asked one."""

    def told(holds: bool, probability: float) -> str:
        asked = f"{'surely' if holds else 'not surely'} above the asked {rule.minimum_gain:.4f}"
        return f"that is {asked} (probability {probability:.3f})"

    return _surely_above(champion, "champion's", challenger, rule, rule.minimum_gain, told)


def against_original(
    original: ModelScores, quantised: ModelScores, rule: PromotionRule, max_loss: float
) -> tuple[bool, str]:
    """Whether a loss of `max_loss` is ruled out."""

    def told(holds: bool, _: float) -> str:
        return f"a loss of {max_loss:.4f} or more is {'' if holds else 'not '}ruled out"

    return _surely_above(original, "original's", quantised, rule, -max_loss, told)


def _surely_above(
    old: ModelScores,
    whose: str,
    new: ModelScores,
    rule: PromotionRule,
    bound: float,
    verdict: Callable[[bool, float], str],
) -> tuple[bool, str]:
    """Of the gain in the primary metric; `verdict` says it in words, by whether it holds and how probable it is."""
    name = rule.primary_metric
    values = _of(new.metrics, name, "metrics"), _of(old.metrics, name, f"{whose} metrics")
    pairs = _pairs(old, new, name)
    found = _gain(pairs, name, rule.confidence, above=bound)
    told = f"{name} is {values[0]:.4f} against the {whose} {values[1]:.4f} {_told(found, len(pairs), rule)}"
    if found.num_images < MINIMUM_IMAGES:
        return False, f"{told}; {MINIMUM_IMAGES} images are needed for a confidence"
    holds = min(found.gain, found.interval.low) > bound
    return holds, f"{told}; {verdict(holds, found.probability)}"


def against_forgetting(champion: ModelScores, challenger: ModelScores, rule: PromotionRule) -> tuple[bool, list[str]]:
    if rule.forgetting is None:
        return True, []
    first, name = champion.first_test, rule.primary_metric
    assert first is not None, "a rule that bounds forgetting is given the champion's first test"
    pairs = [pair for pair in _pairs(champion, challenger, name) if pair[0].example_id in first.example_ids]
    if not pairs:
        return False, [f"none of the examples of the champion's first test ({first.told}) has a score of {name} today"]
    found = _gain(pairs, name, rule.confidence, above=-rule.forgetting)
    told = f"in the champion's first test ({first.told}), {name} changes {_told(found, len(pairs), rule)}"
    if found.num_images < MINIMUM_IMAGES:
        return False, [f"{told}; {MINIMUM_IMAGES} images are needed for a confidence"]
    holds = found.interval.low >= -rule.forgetting
    return holds, [f"{told}; a loss above {rule.forgetting:.4f} is {'' if holds else 'not '}ruled out"]


def gains(champion: ModelScores, challenger: ModelScores, confidence: float) -> dict[str, PairedGain]:
    """The challenger's, by metric and as the gate finds them, wherever both have a metric on the same examples."""
    found = {}
    for metric in EXAMPLE_METRICS:
        old, new = _scored(champion, metric), _scored(challenger, metric)
        if old and old.keys() == new.keys():
            found[metric] = _gain([(old[each], new[each]) for each in old], metric, confidence)
    return found


def _pairs(champion: ModelScores, challenger: ModelScores, metric: str) -> list[tuple[ExampleScores, ExampleScores]]:
    """Each example that has the metric, as (champion, challenger) answered it."""
    old, new = _scored(champion, metric), _scored(challenger, metric)
    if old.keys() != new.keys():
        raise IntegrityError(
            f"promotion: {len(new.keys() - old.keys())} examples with a score of {metric} are the challenger's only "
            f"and {len(old.keys() - new.keys())} the champion's only; expected the same examples of both. Evaluate "
            "both on the same test rows: start again with --force evaluate."
        )
    return [(old[each], new[each]) for each in old]


def _scored(scores: ModelScores, metric: str) -> dict[str, ExampleScores]:
    return {example.example_id: example for example in scores.examples if metric in example.scores}


def _gain(
    pairs: Sequence[tuple[ExampleScores, ExampleScores]], metric: str, confidence: float, above: float = 0.0
) -> PairedGain:
    from training.metrics.bootstrap import paired_gain

    return paired_gain(
        [old.scores[metric] for old, _ in pairs],
        [new.scores[metric] for _, new in pairs],
        [new.image_id for _, new in pairs],
        confidence,
        above=above,
    )


def _told(found: PairedGain, num_examples: int, rule: PromotionRule) -> str:
    return (
        f"on {num_examples} examples of {found.num_images} images: a gain of {found.gain:+.4f}, "
        f"{100 * rule.confidence:g} % interval {found.interval.low:+.4f} to {found.interval.high:+.4f}"
    )


def _verdict(holds: bool) -> str:
    return "at least the required" if holds else "below the required"


def _of(values: Mapping[str, float], name: str, where: str) -> float:
    if name not in values:
        raise ConfigError(
            f"promotion: the metric {name!r} was not found in the {where}; expected one of "
            f"{', '.join(sorted(values)) or 'none: nothing was measured'}. Correct the rule or the test split."
        )
    return values[name]
