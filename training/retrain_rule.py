"""Whether to train again: a pure function of what is known about the champion and today's rows, with its reasons."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MINIMUM_NEW_IMAGES = 20
"""With fewer, one odd picture is a drift."""


class WatchRule(BaseModel):
    """Section `watch` of a recipe: what calls for a retrain. None switches a trigger off."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    new_examples: int | None = Field(default=None, gt=0)
    """So many that the champion's dataset did not have."""
    champion_age_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Since its training ended."""
    drift_p_value: float | None = Field(default=0.01, gt=0, lt=1)
    """Train images that are new since the champion differ from those it was trained on with a p-value below this: of
    new images that are no different, so many call for a retrain nevertheless."""
    floors: bool = True
    """The champion, scored on today's test rows, falls below a floor or a slice's floor of `promotion`."""

    @model_validator(mode="after")
    def _watches_something(self) -> "WatchRule":
        if self.new_examples is self.champion_age_days is self.drift_p_value is None and not self.floors:
            raise ValueError("every trigger is switched off; expected at least one, or no section `watch`")
        return self


class DriftFacts(BaseModel):
    """See `data_prep.drift.Drift`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    p_value: float
    discrepancy: float
    num_trained: int
    num_new: int


class ChampionFacts(BaseModel):
    """What is known about the champion today. None where the rule does not ask, or there is nothing to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: str
    age_days: float
    num_new_examples: int | None
    """None where its dataset is not in the store any more."""
    num_new_images: int | None
    """Of split `train`, as those that they are compared with."""
    drift: DriftFacts | None
    holds_floors: bool | None
    floors_told: list[str] = []


class Trigger(BaseModel):
    """One reason to train again, or not to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["no_champion", "new_examples", "champion_age", "drift", "floors"]
    fires: bool
    reason: str


class RetrainDecision(BaseModel):
    """The contract of `frostline watch --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    retrain: bool
    triggers: list[Trigger]
    champion: ChampionFacts | None
    dataset_digest: str


def decide_retrain(
    model_name: str, dataset_digest: str, champion: ChampionFacts | None, rule: WatchRule
) -> RetrainDecision:
    """`champion` is None where nothing serves yet."""
    if champion is None:
        triggers = [Trigger(name="no_champion", fires=True, reason=f"{model_name} has no champion yet")]
    else:
        told = (
            _new_examples(champion, rule), _age(champion, rule), _drift(champion, rule), _floors(champion, rule)
        )  # fmt: skip
        triggers = [trigger for trigger in told if trigger is not None]
    return RetrainDecision(
        model=model_name,
        retrain=any(trigger.fires for trigger in triggers),
        triggers=triggers,
        champion=champion,
        dataset_digest=dataset_digest,
    )


def _new_examples(champion: ChampionFacts, rule: WatchRule) -> Trigger | None:
    if rule.new_examples is None:
        return None
    found = champion.num_new_examples
    if found is None:
        reason = "its dataset is not in the store any more: nobody can say which examples are new"
        return Trigger(name="new_examples", fires=True, reason=reason)
    reason = f"{found:,} examples are new since version {champion.version}; {rule.new_examples:,} call for a retrain"
    return Trigger(name="new_examples", fires=found >= rule.new_examples, reason=reason)


def _age(champion: ChampionFacts, rule: WatchRule) -> Trigger | None:
    if rule.champion_age_days is None:
        return None
    fires = champion.age_days >= rule.champion_age_days
    reason = (
        f"version {champion.version} was trained {champion.age_days:.1f} days ago; {rule.champion_age_days:g} call for "
        "a retrain"
    )
    return Trigger(name="champion_age", fires=fires, reason=reason)


def _drift(champion: ChampionFacts, rule: WatchRule) -> Trigger | None:
    if rule.drift_p_value is None:
        return None
    if champion.num_new_images is None:
        reason = "its dataset is not in the store any more: nothing can be compared with what it was trained on"
        return Trigger(name="drift", fires=False, reason=reason)
    if champion.drift is None:
        reason = f"{champion.num_new_images} train images are new; {MINIMUM_NEW_IMAGES} are needed to tell a drift"
        return Trigger(name="drift", fires=False, reason=reason)
    found = champion.drift
    fires = found.p_value < rule.drift_p_value
    reason = (
        f"{found.num_new} new train images {'differ' if fires else 'do not surely differ'} from {found.num_trained} "
        f"that version {champion.version} was trained on (p = {found.p_value:.4f}, below {rule.drift_p_value:g} calls "
        "for a retrain)"
    )
    return Trigger(name="drift", fires=fires, reason=reason)


def _floors(champion: ChampionFacts, rule: WatchRule) -> Trigger | None:
    if not rule.floors:
        return None
    if champion.holds_floors is None:
        return Trigger(name="floors", fires=False, reason="`promotion` has no floors to fall below")
    return Trigger(name="floors", fires=not champion.holds_floors, reason="; ".join(champion.floors_told))
