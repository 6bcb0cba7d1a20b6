"""The champion beside the model of a report: what the page says of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.champion_scores import scores_of
from training.evidence import MINIMUM_IMAGES, ModelScores, gains
from training.promotion import Promotion
from training.promotion_rule import PromotionRule
from training.report import Range

VERDICTS = {
    "wins": "It replaces the champion",
    "awaits_approval": "It waits for a person's approval",
    "refused": "A person refused it",
    "loses": "The champion stays",
    "fails_control": "Refused: it hardly looks at the picture",
    "fails_floor": "Refused: it is below a floor",
}
"""By case of a promotion that met a champion."""


@dataclass(frozen=True)
class Difference:
    """A model's metric less the champion's."""

    value: float
    range: Range | None
    """None where the metric is no mean over examples, or the images are too few for a confidence."""

    @property
    def is_sure(self) -> Literal["better", "worse"] | None:
        if self.range is None:
            return None
        return "better" if self.range.low > 0 else "worse" if self.range.high < 0 else None


@dataclass(frozen=True)
class Against:
    """A champion that the model of a report met, and what was decided."""

    champion_digest: str
    verdict: str
    reasons: Sequence[str]
    primary_metric: str
    confidence: float
    """Of the differences' ranges, as the rule asks for it."""
    metrics: Mapping[str, float]
    intervals: Mapping[str, Range]
    differences: Mapping[str, Difference]


def beside_champion(
    champion: ModelScores, evaluation: Manifest, challenger: ModelScores, promotion: Promotion, rule: PromotionRule
) -> Against:
    """`evaluation` is the champion's. Differences are drawn as the gate draws them."""
    return Against(
        champion_digest=champion.model_digest,
        verdict=VERDICTS[promotion.case],
        reasons=promotion.reasons,
        primary_metric=rule.primary_metric,
        confidence=rule.confidence,
        metrics=champion.metrics,
        intervals={name: Range(low=low, high=high) for name, (low, high) in evaluation.facts["intervals"].items()},
        differences=_differences(champion, challenger, rule.confidence),
    )


def differences_between(old: Manifest, new: Manifest, confidence: float, cache: PartCache) -> dict[str, Difference]:
    """Of two evaluations on the same test rows: the new one's metrics less the old one's."""
    return _differences(scores_of(old, cache), scores_of(new, cache), confidence)


def _differences(old: ModelScores, new: ModelScores, confidence: float) -> dict[str, Difference]:
    drawn = gains(old, new, confidence)

    def difference(name: str) -> Difference:
        gain = drawn.get(name)
        sure = gain is not None and gain.num_images >= MINIMUM_IMAGES
        between = Range(low=gain.interval.low, high=gain.interval.high) if gain and sure else None
        return Difference(new.metrics[name] - old.metrics[name], between)

    return {name: difference(name) for name in sorted(old.metrics.keys() & new.metrics.keys())}
