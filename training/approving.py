"""A person's word on a model that the gate let through under `promotion.approval: required`: `approve` and `refuse`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.errors import ConfigError
from infra.outputs import Manifest
from infra.tracking import DIGEST_TAG, ModelVersion
from training.candidate import Candidate, ModelPlace, read_candidate
from training.champion import mirror
from training.ledger import LedgerEntry
from training.notices import Notice, note
from training.promoting import Change, enter, version_named
from training.register import NO_CHAMPION
from training.verdicts import Verdict, give_verdict


@dataclass(frozen=True)
class Refusal:
    """A model that a person refused, and whether this command did it."""

    version: str
    verdict: Verdict
    changed: bool


def approve(place: ModelPlace, version_name: str, reason: str | None) -> Change:
    """Make the version champion, as the gate would have.

    Raises ConfigError where it does not wait for approval, was refused, or was compared with another champion than
    serves now; IntegrityError where a file of it was altered after registration."""
    version = _named(place, version_name)
    before = mirror(place)
    if before is not None and version.tags.get(DIGEST_TAG) == before.model_digest:
        return Change(before, changed=False)
    candidate, decision = _waiting(place, version)
    _check_champion(version, decision, before)
    verdict, _ = _given(place, version, decision, "approved", reason)
    told = f"approved by a person: {verdict.reason or 'no reason was given'}"
    return enter(place, candidate, "approved", before, [*decision.facts["promotion"]["reasons"], told])


def refuse(place: ModelPlace, version_name: str, reason: str | None) -> Refusal:
    """Say that the version must not serve. It stays registered and challenges no more.

    Raises ConfigError where it does not wait for approval, was approved or serves."""
    version = _named(place, version_name)
    now = mirror(place)
    if now is not None and version.tags.get(DIGEST_TAG) == now.model_digest:
        raise ConfigError(
            f"{version.uri}: it serves (entry {now.number}, {now.kind}); expected a version that waits for approval. "
            "`frostline rollback` takes it back."
        )
    _, decision = _waiting(place, version)
    verdict, is_new = _given(place, version, decision, "refused", reason)
    told = f"refused by a person: {verdict.reason or 'no reason was given'}"
    notice = Notice(
        kind="refused_by_hand", version=version.version, register_fingerprint=decision.fingerprint, reasons=[told]
    )
    note(place.store, place.model_name, notice)
    if place.registry.aliases(place.model_name).get("challenger") == version.version:
        place.registry.delete_alias(place.model_name, "challenger")
    place.registry.describe(version, f"Refused:\n- {told}")
    return Refusal(version.version, verdict, changed=is_new)


def _named(place: ModelPlace, version_name: str) -> ModelVersion:
    """Raises ConfigError where it is the one that waits, as without a number, and none does."""
    registry, model = place.registry, place.model_name
    if version_name == "challenger" and version_name not in registry.aliases(model) and registry.versions(model):
        raise ConfigError(
            f"{model}: no version waits for approval; expected a challenger that does. `frostline status` "
            "shows who serves; `frostline promote MODEL VERSION` makes any version champion."
        )
    return version_named(place, version_name)


def _waiting(place: ModelPlace, version: ModelVersion) -> tuple[Candidate, Manifest]:
    candidate = read_candidate(place, version)
    decision = candidate.decision
    case = None if decision is None else decision.facts["promotion"].get("case")
    if decision is None or case != "awaits_approval":
        found = "the gate has not decided about it" if decision is None else f"the gate's decision is {case!r}"
        raise ConfigError(
            f"{version.uri}: it waits for nobody's approval ({found}); expected a version that a recipe with "
            "`promotion.approval: required` left to a person. `frostline promote` makes any version champion."
        )
    return candidate, decision


def _check_champion(version: ModelVersion, decision: Manifest, before: LedgerEntry | None) -> None:
    now = before.model_digest if before else NO_CHAMPION
    met = decision.inputs["champion_digest"]
    if met != now:
        raise ConfigError(
            f"{version.uri}: the gate compared it with {_short(met)}, and {_short(now)} serves now; expected the same. "
            "Run the recipe again, which compares it with today's champion, or use `frostline promote`."
        )


def _given(
    place: ModelPlace, version: ModelVersion, decision: Manifest, word: Literal["approved", "refused"],
    reason: str | None,
) -> tuple[Verdict, bool]:  # fmt: skip
    """The verdict, and whether it is this command's. Raises ConfigError where somebody said the opposite before."""
    stands, is_new = give_verdict(place.store, place.model_name, decision.fingerprint, word, version.version, reason)
    if stands.word != word:
        raise ConfigError(
            f"{version.uri}: it was {stands.word} at {stands.decided_at} ({stands.reason or 'no reason was given'}); "
            "expected nobody to have decided yet. `frostline promote --force` or `frostline rollback` overrules it."
        )
    return stands, is_new


def _short(digest: str) -> str:
    return "no champion" if digest == NO_CHAMPION else f"the champion {digest[:12]}…"
