"""The `register` step: a model version in MLflow, the decision whether it serves, the ledger entry, the aliases.

Every part can be done again: the version is found by its model digest, an output enters its promotion once, and
aliases are set to what the ledger says. Only the manifest, written after all of it, ends the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from infra.digests import canonical_json, digest_bytes, digest_json
from infra.disk import scratch_folder
from infra.errors import PlatformError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part
from infra.part_cache import PartCache
from infra.store import Store
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from training.against import beside_champion
from training.candidate import ModelPlace, checked_package, noted_digest
from training.champion import mirror
from training.champion_scores import champion_scores, scores_of
from training.evidence import ModelScores
from training.ledger import STEP, LedgerEntry, append_entry, head, history
from training.notices import note_decision
from training.promotion import Promotion, decide_promotion, decide_quantised, description
from training.promotion_rule import PromotionRule
from training.register_page import Pages, pages_with_champion, pages_without_champion
from training.report import REPORT
from training.verdicts import refusal_of

if TYPE_CHECKING:
    from training.version import VersionParts

VERSION = 3
NO_CHAMPION = "none"
SHOWN_IMAGES = "shown_image_ids"
"""A fact: which images the output's report shows."""


@dataclass(frozen=True)
class RegisterNames:
    """Whose model is registered, as what and where."""

    recipe: str
    model_name: str
    tracking_uri: str
    """Without a password. Another MLflow does not have the version yet: so it is part of the fingerprint."""


@dataclass(frozen=True)
class Registration:
    """A model to register, and what is known about it."""

    rule: PromotionRule
    model_name: str
    parts: VersionParts
    evaluation: Manifest
    champion: Manifest | None
    """The evaluation of `champion_of(request)` on the same test rows (see `champion_evaluation`)."""
    original: Manifest | None = None
    """Of an int8 model: the evaluation of what it was made from, which it is compared with as well."""
    max_loss: float = 0.0
    """That it may lose against its original."""


def register_request(
    rule: PromotionRule,
    names: RegisterNames,
    model: Manifest,
    evaluation: Manifest,
    store: Store,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> OutputRequest:
    """Raises IntegrityError where the ledger is damaged. Reads the ledger: the champion is one of the inputs. `more`
    decides beside the rule."""
    config = {**rule.model_dump(mode="json"), **more}

    def against(champion_digest: str) -> OutputRequest:
        inputs = {
            "model_name": names.model_name,
            "registry": digest_bytes(names.tracking_uri.encode()),
            "model_digest": model.identity["model_digest"],
            "evaluation_digest": evaluation.identity["evaluation_digest"],
            "champion_digest": champion_digest,
        }
        return OutputRequest(STEP, VERSION, names.recipe, config, inputs, also_logged_as=inputs["model_digest"])

    now = head(store, names.model_name)
    if now is None:
        return against(NO_CHAMPION)
    if now.register_fingerprint is None:
        return against(now.model_digest)
    # A champion met an earlier one, or none. Registering it again is that decision again, and finds its output.
    again = against(now.inputs["champion_digest"])
    return again if again.fingerprint == now.register_fingerprint else against(now.model_digest)


def champion_of(request: OutputRequest, store: Store) -> LedgerEntry | None:
    """The entry of the champion that this output is decided against; None where there was none."""
    wanted = request.inputs["champion_digest"]
    entries = reversed(history(store, request.inputs["model_name"]))
    return next((entry for entry in entries if entry.model_digest == wanted), None)


def register(registration: Registration, attempt: Attempt, workspace: Workspace) -> Draft:
    """Raises PlatformError where MLflow is away or the champion changed meanwhile, IntegrityError where a
    file of the registered version was altered, or it does not answer as the evaluation did, ClaimLost where another
    retrain took this one's place."""
    from training.archive import archive
    from training.version import check_answers, ensure_version

    registry = Registry(workspace.settings.mlflow)
    place = ModelPlace(workspace.store, registry, registration.model_name)
    mirror(place)  # whom a person made champion is entered before a model is decided against another one
    before = _head_decided_against(registration, attempt)
    challenger = scores_of(registration.evaluation, workspace.cache)
    champion = None
    if registration.champion is not None:
        champion = champion_scores(registration.champion, registration.rule, workspace.cache)
    promotion = _heeding(_decided(registration, champion, challenger, workspace.cache), registration, attempt)
    version = ensure_version(registry, registration.model_name, registration.parts, registration.evaluation, workspace)
    with scratch_folder("version") as folder:
        # Not from the cache: what counts is what the registry holds.
        package = checked_package(registry, version, registration.parts.train, folder)
        answers = check_answers(package, version, registration.evaluation, registration.parts, workspace)
        archived = archive(version, package.folder.parents[1], attempt)
    pages = _pages(registration, champion, challenger, promotion, workspace.cache)  # a failure here changes no champion
    if workspace.claim is not None:
        workspace.claim.check()
    if promotion.promoted and not _is_entered(registration, attempt):
        _enter(registration, before, version, promotion, attempt)
    note_decision(workspace.store, registration.model_name, version.version, attempt.request.fingerprint, promotion)
    registry.describe(version, description(promotion))
    registry.show_page(version, pages.without_pictures)
    aliases = _set_aliases(place, version, promotion)
    comparison = {
        **attempt.request.inputs,
        "rule": registration.rule.model_dump(mode="json"),
        "metrics": dict(challenger.metrics),
        "control": dict(challenger.control),
        "blind": dict(challenger.blind),
        "champion_metrics": dict(champion.metrics) if champion else None,
        "promotion": promotion.model_dump(mode="json"),
    }
    return Draft(
        parts=[*_parts(comparison, pages, attempt), *archived],
        identity={"register_digest": digest_json(comparison), "model_digest": challenger.model_digest},
        counts={"rows_out": 1},
        facts={
            "model": {
                "name": version.name,
                "version": version.version,
                "aliases": aliases,
                "uri": version.uri,
                "digest": challenger.model_digest,
            },
            "promotion": promotion.model_dump(mode="json"),
            "answers_checked": answers,
            "files_digest": noted_digest(version),
            SHOWN_IMAGES: pages.image_ids,
        },
    )


def _decided(
    registration: Registration, champion: ModelScores | None, challenger: ModelScores, cache: PartCache
) -> Promotion:
    if registration.original is None:
        return decide_promotion(champion, challenger, registration.rule)
    original = scores_of(registration.original, cache)
    return decide_quantised(champion, original, challenger, registration.rule, registration.max_loss)


def _heeding(promotion: Promotion, registration: Registration, attempt: Attempt) -> Promotion:
    """The gate's decision, unless a person refused the model that it lets through, now or beside another champion."""
    if promotion.alias is None or promotion.case == "is_champion":
        return promotion
    refusal = refusal_of(attempt.store, registration.model_name, attempt.request.inputs["model_digest"])
    if refusal is None:
        return promotion
    told = f"a person refused it: {refusal.reason or 'no reason was given'}"
    return Promotion(case="refused", promoted=False, alias=None, reasons=[*promotion.reasons, told])


def _pages(
    registration: Registration,
    champion: ModelScores | None,
    challenger: ModelScores,
    promotion: Promotion,
    cache: PartCache,
) -> Pages:
    if registration.champion is None or champion is None or promotion.case == "is_champion":
        return pages_without_champion(registration.evaluation, cache)
    met = beside_champion(champion, registration.champion, challenger, promotion, registration.rule)
    return pages_with_champion(registration.evaluation, registration.champion, met, registration.parts.dataset, cache)


def _parts(comparison: dict[str, Any], pages: Pages, attempt: Attempt) -> list[Part]:
    with scratch_folder("register") as folder:
        (folder / "comparison.json").write_bytes(canonical_json(comparison))
        parts = [attempt.add_part(folder / "comparison.json", "comparison", 0, name="register/comparison.json")]
        if pages.whole is not None:
            (folder / "report.html").write_text(pages.whole)
            parts.append(attempt.add_part(folder / "report.html", "report", 0, name=REPORT))
    return parts


def _head_decided_against(registration: Registration, attempt: Attempt) -> LedgerEntry | None:
    """The ledger's head. Raises PlatformError where it is neither the champion of the request nor this output's own
    entry, made by an attempt that stopped after it or, by hand, after this output was committed once."""
    expected = attempt.request.inputs["champion_digest"]
    given = registration.champion.identity["model_digest"] if registration.champion else NO_CHAMPION
    assert given == expected, "the champion's evaluation is that of the model that the request names"
    now = head(attempt.store, registration.model_name)
    if not _is_own(now, attempt) and (now.model_digest if now else NO_CHAMPION) != expected:
        raise _champion_changed(registration.model_name, expected)
    return now


def _is_own(entry: LedgerEntry | None, attempt: Attempt) -> bool:
    """Of whatever kind: a promotion or rollback by hand carries the fingerprint of the output that decided."""
    return entry is not None and entry.register_fingerprint == attempt.request.fingerprint


def _is_entered(registration: Registration, attempt: Attempt) -> bool:
    """Whether an earlier attempt has entered this promotion, or a person made it. What came since then stands."""
    return any(_is_own(entry, attempt) for entry in history(attempt.store, registration.model_name))


def _enter(
    registration: Registration,
    before: LedgerEntry | None,
    version: ModelVersion,
    promotion: Promotion,
    attempt: Attempt,
) -> None:
    entry = LedgerEntry(
        number=before.number + 1 if before else 1,
        kind="promotion",
        model_digest=attempt.request.inputs["model_digest"],
        version=version.version,
        previous_version=before.version if before else None,
        train_fingerprint=registration.parts.train.fingerprint,
        register_fingerprint=attempt.request.fingerprint,
        inputs=dict(attempt.request.inputs),
        reasons=promotion.reasons,
    )
    won = append_entry(attempt.store, registration.model_name, entry)
    # Another process at the same output may have entered the same decision.
    if won is None and not _is_own(head(attempt.store, registration.model_name), attempt):
        raise _champion_changed(registration.model_name, entry.inputs["champion_digest"])


def _set_aliases(place: ModelPlace, version: ModelVersion, promotion: Promotion) -> list[str]:
    """Set MLflow's aliases to what the ledger and this decision say; returns this version's."""
    mirror(place)
    known = place.registry.aliases(version.name)
    challenges = promotion.alias == "challenger" and known.get("champion") != version.version
    if challenges and known.get("challenger") != version.version:
        place.registry.set_alias(version.name, "challenger", version.version)
    elif not challenges and known.get("challenger") == version.version:
        place.registry.delete_alias(version.name, "challenger")
    return sorted(alias for alias, number in place.registry.aliases(version.name).items() if number == version.version)


def _champion_changed(model_name: str, expected: str) -> PlatformError:
    told = "no champion" if expected == NO_CHAMPION else f"the champion {expected[:12]}…"
    return PlatformError(
        f"{model_name}: the ledger names another champion than a moment ago; expected {told}, which this model was "
        "compared with. Start again: only the decision is made anew."
    )
