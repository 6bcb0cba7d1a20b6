"""Changing the champion by hand: `promote` and `rollback`. Both check the version first, enter the ledger, then set the
aliases; started again after a crash in between, they find what they entered."""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import ConfigError, IntegrityError, PlatformError
from infra.tracking import DIGEST_TAG, ModelVersion
from training.candidate import Candidate, ModelPlace, read_candidate
from training.champion import mirror, unfinished
from training.ledger import Kind, LedgerEntry, append_entry, former_champions, head, history
from training.verdicts import refusal_of


@dataclass(frozen=True)
class Change:
    """The champion after a command, and whether the command made it that."""

    entry: LedgerEntry
    changed: bool


def version_named(place: ModelPlace, name: str) -> ModelVersion:
    """By number, or by alias."""
    return place.registry.resolve(f"models:/{place.model_name}{'/' if name.isdigit() else '@'}{name}")


def promote(place: ModelPlace, version_name: str, reason: str | None, force: bool) -> Change:
    """Make a version champion because a person says so.

    Raises ConfigError where the gate said that it must not serve, or never saw it, unless `force`; IntegrityError where
    a file of it was altered after registration; PlatformError where the champion changed meanwhile."""
    version = version_named(place, version_name)  # before `mirror`, which moves aliases
    before = mirror(place)
    if before is not None and version.tags.get(DIGEST_TAG) == before.model_digest:
        return Change(before, changed=False)
    candidate = read_candidate(place, version)
    found = doubts(candidate, place)
    if found and not force:
        raise ConfigError(
            f"{version.uri}: {'; '.join(found)}; expected a version that the gate let through as champion or "
            "challenger. Promote another one, or this one with --force."
        )
    reasons = [f"promoted by hand: {reason or 'no reason was given'}", *(f"forced, although {told}" for told in found)]
    return enter(place, candidate, "promoted_by_hand", before, reasons)


def rollback(place: ModelPlace, reason: str | None) -> Change:
    """Make the former champion champion again; once more, the one before it. One that was entered and then stopped
    before MLflow's aliases were set is finished, and none made beside it.

    Raises ConfigError where there is none, IntegrityError where it is not whole any more, PlatformError where the
    champion changed meanwhile."""
    begun = unfinished(place)
    before = mirror(place)
    if before is not None and before.kind == "rollback" and before == begun:
        return Change(before, changed=True)
    former = former_champions(history(place.store, place.model_name))
    if before is None or not former:
        told = f"version {before.version} is the first one" if before else "nothing was ever promoted"
        raise ConfigError(
            f"{place.model_name}: there is no former champion ({told}); expected one to go back to. "
            f"`frostline history {place.model_name}` shows the changes, `frostline promote` makes any version champion."
        )
    restored = former[-1]
    version = place.registry.find_version(place.model_name, restored.model_digest)
    if version is None:
        raise IntegrityError(
            f"{place.model_name}: the former champion, version {restored.version} ({restored.model_digest[:12]}…), is "
            "not in MLflow any more; expected it whole. Register it anew, or promote another version."
        )
    candidate = read_candidate(place, version)
    told = f"rolled back from version {before.version}, which entry {before.number} made champion"
    return enter(place, candidate, "rollback", before, [f"{told}: {reason or 'no reason was given'}"])


def doubts(candidate: Candidate, place: ModelPlace) -> list[str]:
    """What speaks against a model that is to serve, in words."""
    if candidate.decision is None:
        return ["the gate has not decided about this model"]
    refusal = refusal_of(place.store, place.model_name, candidate.model_digest)
    if refusal is not None:
        return [f"a person refused it ({refusal.reason or 'no reason was given'})"]
    promotion = candidate.decision.facts["promotion"]
    if promotion["alias"] is not None:
        return []
    return [f"the gate refused it ({'; '.join(promotion['reasons'])})"]


def enter(
    place: ModelPlace, candidate: Candidate, kind: Kind, before: LedgerEntry | None, reasons: list[str]
) -> Change:
    """The checked candidate becomes champion after `before`. Raises PlatformError where that one changed meanwhile."""
    entered = append_entry(place.store, place.model_name, candidate.entry(kind, before, reasons))
    now = None if entered else head(place.store, place.model_name)
    if now is not None and now.model_digest == candidate.model_digest:  # who else did it was faster
        mirror(place)
        return Change(now, changed=False)
    if entered is None:
        raise PlatformError(
            f"{place.model_name}: another process changed the champion a moment ago; expected "
            f"{f'version {before.version}' if before else 'none'} to serve. `frostline history {place.model_name}` "
            "shows it; start again if you still want the change."
        )
    mirror(place)
    return Change(entered, changed=True)
