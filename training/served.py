"""Who served and how well, what was refused, and who waits: from the ledger, the notices and the evaluations."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from infra.store import Store
from training import ledger, notices
from training.champion_scores import champion_outputs_name
from training.ledger import STEP, LedgerEntry
from training.made import Made
from training.register import NO_CHAMPION
from training.verdicts import read_verdict


class Change(BaseModel):
    """One entry of the ledger, or one notice."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    at: str
    kind: ledger.Kind | notices.Kind
    version: str
    reasons: list[str]


class Quality(BaseModel):
    """One evaluation of a model that serves or served."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    version: str
    model_digest: str
    metric: str
    """The primary metric of the newest gate."""
    score: float
    low: float | None
    """Ends of the 95 % interval; None for a metric that is no mean over examples, as BLEU."""
    high: float | None
    evaluated_at: str
    test_rows: str
    """The digest's start: scores on other test rows are other scores."""
    serves: bool


class Waiting(BaseModel):
    """A version that waits for `frostline approve` or `refuse`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    version: str
    since: str


class Served(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    changes: list[Change]
    """Oldest first."""
    quality: list[Quality]
    """Oldest first."""
    waiting: list[Waiting]
    champions: dict[str, str]
    """{model: version that serves}."""


def served(store: Store, outputs: Sequence[Made]) -> Served:
    """Raises IntegrityError where a ledger, a notice or a verdict is damaged."""
    decisions = {made.fingerprint: made for made in outputs if made.step == STEP}
    changes: list[Change] = []
    quality: list[Quality] = []
    waiting: list[Waiting] = []
    champions: dict[str, str] = {}
    for model in _model_names(store):
        entries = ledger.history(store, model)
        changes += [_change(model, entry) for entry in entries]
        told = notices.notices(store, model)
        changes += [_noticed(store, model, notice, decisions) for notice in told]
        now = entries[-1].model_digest if entries else NO_CHAMPION
        waiting += [
            Waiting(model=model, version=notice.version, since=_made_at(notice, decisions))
            for notice in told
            if notice.kind == "awaits_approval" and _waits(store, model, notice, decisions, now)
        ]
        if entries:
            champions[model] = entries[-1].version
            quality += _quality(model, entries, outputs)
    return Served(
        changes=sorted(changes, key=lambda change: change.at),
        quality=sorted(quality, key=lambda point: point.evaluated_at),
        waiting=waiting,
        champions=champions,
    )


def _model_names(store: Store) -> list[str]:
    keys = [key for folder in ("ledger", "notices") for key in store.list(f"{STEP}/{folder}")]
    return sorted({key.split("/")[2] for key in keys})


def _change(model: str, entry: LedgerEntry) -> Change:
    return Change(model=model, at=entry.decided_at, kind=entry.kind, version=entry.version, reasons=entry.reasons)


def _noticed(store: Store, model: str, notice: notices.Notice, decisions: dict[str, Made]) -> Change:
    at = _made_at(notice, decisions)
    if notice.kind == "refused_by_hand":
        verdict = read_verdict(store, model, notice.register_fingerprint)
        at = verdict.decided_at if verdict is not None else at
    return Change(model=model, at=at, kind=notice.kind, version=notice.version, reasons=notice.reasons)


def _made_at(notice: notices.Notice, decisions: dict[str, Made]) -> str:
    """Notices have no time of their own: that of the output that decided, empty where it was withdrawn since."""
    made = decisions.get(notice.register_fingerprint)
    return made.made_at if made is not None else ""


def _waits(store: Store, model: str, notice: notices.Notice, decisions: dict[str, Made], now: str) -> bool:
    """Whether somebody can still approve it: nobody gave a word, and the champion is the one that it met."""
    made = decisions.get(notice.register_fingerprint)
    met = made.inputs.get("champion_digest") if made is not None else None
    return met == now and read_verdict(store, model, notice.register_fingerprint) is None


def _quality(model: str, entries: Sequence[LedgerEntry], outputs: Sequence[Made]) -> list[Quality]:
    gates = [made for made in outputs if made.step == STEP and made.inputs.get("model_name") == model]
    metric = next((made.primary_metric for made in reversed(gates) if made.primary_metric), None)
    if metric is None:
        return []
    recipes = {made.recipe for made in gates}
    names = recipes | {champion_outputs_name(recipe) for recipe in recipes}
    versions = {entry.model_digest: entry.version for entry in entries}
    found = []
    for made in outputs:
        digest = made.identity.get("model_digest", "")
        scores = made.facts.get("metrics", {})
        # `frostline evaluate` on rows of somebody's own goes under another name.
        if made.step != "evaluate" or made.recipe not in names or digest not in versions or metric not in scores:
            continue
        low, high = made.facts.get("intervals", {}).get(metric, (None, None))
        found.append(
            Quality(
                model=model,
                version=versions[digest],
                model_digest=digest,
                metric=metric,
                score=scores[metric],
                low=low,
                high=high,
                evaluated_at=made.made_at,
                test_rows=made.inputs.get("test_digest", "")[:12],
                serves=digest == entries[-1].model_digest,
            )
        )
    return found
