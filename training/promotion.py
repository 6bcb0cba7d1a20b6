"""Which of two models serves: a pure function of scores and a rule, which returns its reasons in words."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.evidence import (
    ModelScores,
    against_champion,
    against_control,
    against_forgetting,
    against_original,
    holds_floors,
)
from training.promotion_rule import PromotionRule

Alias = Literal["champion", "challenger"]


class Promotion(BaseModel):
    """A decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    case: Literal[
        "no_champion", "is_champion", "fails_control", "fails_floor", "loses", "wins", "awaits_approval", "refused",
        "loses_quality",
    ]  # fmt: skip
    promoted: bool
    """Whether the champion changes."""
    alias: Alias | None
    """What the model is called afterwards. None: it must not serve."""
    reasons: list[str]


def decide_promotion(champion: ModelScores | None, challenger: ModelScores, rule: PromotionRule) -> Promotion:
    """Raises ConfigError where the rule names a metric or a slice that was not measured, IntegrityError where the
    two were scored on other examples."""
    if champion is not None and champion.model_digest == challenger.model_digest:
        return _is_champion()
    refusal, reasons = _by_itself(challenger, rule)
    return refusal or _beside(champion, challenger, rule, reasons)


def decide_quantised(
    champion: ModelScores | None, original: ModelScores, quantised: ModelScores, rule: PromotionRule, max_loss: float
) -> Promotion:
    """Whether a smaller model serves: what is asked of every model, against the champion among smaller ones, and before
    that a loss of `max_loss` of the primary metric against its original is ruled out. Raises as `decide_promotion`
    does."""
    if champion is not None and champion.model_digest == quantised.model_digest:
        return _is_champion()
    refusal, reasons = _by_itself(quantised, rule)
    if refusal is not None:
        return refusal
    kept, told = against_original(original, quantised, rule, max_loss)
    if not kept:
        reasons += [told, "it is not registered"]
        return Promotion(case="loses_quality", promoted=False, alias=None, reasons=reasons)
    return _beside(champion, quantised, rule, [*reasons, told])


def _is_champion() -> Promotion:
    reason = "this model is the champion already; nothing changes"
    return Promotion(case="is_champion", promoted=False, alias="champion", reasons=[reason])


def _by_itself(scores: ModelScores, rule: PromotionRule) -> tuple[Promotion | None, list[str]]:
    """(the decision where it must not serve, reasons)."""
    control_passed, control_reasons = against_control(scores, rule)
    floors_passed, floor_reasons = holds_floors(scores, rule)
    reasons = control_reasons + floor_reasons
    if not control_passed:
        return Promotion(case="fails_control", promoted=False, alias=None, reasons=reasons), reasons
    if not floors_passed:
        return Promotion(case="fails_floor", promoted=False, alias=None, reasons=reasons), reasons
    return None, reasons


def _beside(
    champion: ModelScores | None, challenger: ModelScores, rule: PromotionRule, reasons: list[str]
) -> Promotion:
    """Of a model that may serve."""
    if champion is None:
        if rule.approval == "required":
            return _awaits_approval([*reasons, "there is no champion yet"])
        reasons.append("there is no champion yet, so this model becomes it")
        return Promotion(case="no_champion", promoted=True, alias="champion", reasons=reasons)
    gains, gain_reason = against_champion(champion, challenger, rule)
    remembers, memory_reasons = against_forgetting(champion, challenger, rule)
    wins = gains and remembers
    if wins and rule.approval == "required":
        return _awaits_approval([*reasons, gain_reason, *memory_reasons])
    verdict = "it replaces the champion" if wins else "the champion stays"
    return Promotion(
        case="wins" if wins else "loses",
        promoted=wins,
        alias="champion" if wins else "challenger",
        reasons=[*reasons, gain_reason, *memory_reasons, verdict],
    )


def description(promotion: Promotion) -> str:
    """Of a version in MLflow, as Markdown."""
    told: dict[Alias | None, str] = {"champion": "Became champion", "challenger": "Became challenger", None: "Refused"}
    verdict = "Waits for approval" if promotion.case == "awaits_approval" else told[promotion.alias]
    return "\n".join([f"{verdict}:", *(f"- {reason}" for reason in promotion.reasons)])


def _awaits_approval(reasons: list[str]) -> Promotion:
    told = "it passes, and a person decides: frostline approve MODEL, or frostline refuse MODEL"
    return Promotion(case="awaits_approval", promoted=False, alias="challenger", reasons=[*reasons, told])
