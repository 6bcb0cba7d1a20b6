"""MLflow's aliases `champion` and `previous` follow the ledger, and a champion that a person chose there is entered.

`previous` is whom the next rollback restores. An entry is written before the aliases are set, so that a crash leaves
them behind; what tells that from a person's choice is a mark, and an announcement:

    {store}/register/mirrored/{model_name}/{mlflow}/{n:08d}   this MLflow's aliases were set to what entry n says
    {store}/register/mirroring/{model_name}/{mlflow}/{token}  a process is setting them

From the newest mark on, the alias `champion` may name whom that entry or a later one names; anything else is a
person's. MLflow keeps what was written last, and a slow process may write what is outdated by then: it announces
itself, reads the ledger only after that, and withdraws only when the ledger, read again, is what it wrote. Who sees
an announcement takes nothing for a person's choice, and sets the aliases anew. One of a process that died is
disregarded after ANNOUNCED_SECONDS; a living process begins no write later than SETTING_SECONDS after its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from infra.addresses import without_password
from infra.digests import digest_bytes
from infra.errors import IntegrityError, PlatformError
from infra.store import Store
from infra.tracking import DIGEST_TAG, ModelVersion
from training.candidate import ModelPlace, read_candidate
from training.ledger import STEP, LedgerEntry, append_entry, former_champions, head, history

ANNOUNCED_SECONDS = 600
SETTING_SECONDS = 240
"""With the longest wait for one answer of MLflow, about 190 s by `prepare_environment`, well below the former."""
MAX_TURNS = 100
"""Changes of champion that one process waits out."""


def mirror(place: ModelPlace) -> LedgerEntry | None:
    """Bring ledger and aliases together; gives the newest entry. What a crash left behind is set, what a person chose
    is entered.

    Raises IntegrityError where a person's choice may not serve, PlatformError where MLflow is away."""
    for _ in range(MAX_TURNS):
        entries = history(place.store, place.model_name)
        now = entries[-1] if entries else None
        # In this order: whatever is named after marks and announcements were read, while the ledger stood still, is
        # not of a process that came and went meanwhile.
        allowed = _may_be_named(place, entries)
        is_announced = _is_announced(place)
        aliases = place.registry.aliases(place.model_name)
        named = _named(place, aliases)
        if head(place.store, place.model_name) != now:
            continue
        if named is not None and named.tags.get(DIGEST_TAG) not in allowed and not is_announced:
            _enter_choice(place, now, named)
        elif now is None or (_is_mirrored(place, now) and not _changes(place, entries, aliases)):
            return now
        else:
            return _set_aliases(place)
    raise _restless(place)


def differences(place: ModelPlace) -> str | None:
    """Where aliases are not what the ledger says, in words. Changes nothing: `mirror` brings them together."""
    entries = history(place.store, place.model_name)
    aliases = place.registry.aliases(place.model_name)
    changes = _changes(place, entries, aliases) if entries else dict.fromkeys({"champion"} & aliases.keys())
    if not changes:
        return None

    def told(version: str | None) -> str:
        return f"version {version}" if version else "no version"

    found = "; ".join(
        f"the alias {alias} is on {told(aliases.get(alias))}, by the ledger it is on {told(version)}"
        for alias, version in changes.items()
    )
    return (
        f"{place.model_name}: {found}. The next promotion, rollback or flow run sets what a crash left behind, and "
        "enters a champion whom a person chose in MLflow."
    )


def unfinished(place: ModelPlace) -> LedgerEntry | None:
    """The newest entry, where this MLflow's aliases were not set to it yet."""
    now = head(place.store, place.model_name)
    return None if now is None or _is_mirrored(place, now) else now


def is_behind(store: Store, model_name: str, tracking_uri: str) -> bool:
    """Whether this MLflow's aliases were not set to the newest entry yet. Asks the store alone, which takes no time."""
    now = head(store, model_name)
    return now is not None and not store.exists(_mark(model_name, tracking_uri, now))


def _may_be_named(place: ModelPlace, entries: Sequence[LedgerEntry]) -> set[str]:
    """Digests that the alias may stand on without a person's doing."""
    allowed = set()
    for entry in reversed(entries):
        allowed.add(entry.model_digest)
        if _is_mirrored(place, entry):
            break
    return allowed


def _named(place: ModelPlace, aliases: dict[str, str]) -> ModelVersion | None:
    return place.registry.version(place.model_name, aliases["champion"]) if "champion" in aliases else None


def _enter_choice(place: ModelPlace, before: LedgerEntry | None, chosen: ModelVersion) -> None:
    """Enter the version that a person set the alias on. Another process may be first: then the ledger is read again."""
    was = f"version {before.version}, as the ledger says" if before else "none, because the ledger is empty"
    told = f"found in MLflow: the alias champion is on version {chosen.version}; expected {was}"
    try:
        candidate = read_candidate(place, chosen)
    except IntegrityError as error:
        raise IntegrityError(
            f"{place.model_name}: {told}. It was moved by hand to a version that may not serve ({error}) "
            "Remove the alias in MLflow, and the ledger's champion is set again, or move it to a whole version."
        ) from error
    entry = candidate.entry("alias_moved_by_hand", before, [f"{told}: a person moved it there"])
    append_entry(place.store, place.model_name, entry)


def _set_aliases(place: ModelPlace) -> LedgerEntry:
    """Set them until they are what the ledger says then. Raises PlatformError after SETTING_SECONDS."""
    deadline = time.time() + SETTING_SECONDS  # no monotonic clock: it stands still while a computer sleeps
    announcement = f"{_announcements(place)}/{uuid.uuid4().hex}"
    place.store.write(announcement, b"")
    for _ in range(MAX_TURNS):
        entries = history(place.store, place.model_name)
        now = entries[-1]
        for alias, version in _changes(place, entries, place.registry.aliases(place.model_name)).items():
            if time.time() > deadline:
                raise _too_slow(place)
            if version is None:
                place.registry.delete_alias(place.model_name, alias)
            else:
                place.registry.set_alias(place.model_name, alias, version)
        if head(place.store, place.model_name) == now:
            place.store.create(_mark(place.model_name, place.registry.uri, now), b"")
            # Not in a `finally`: who fails in between may have left what is outdated.
            place.store.delete(announcement)
            return now
    raise _restless(place)


def _changes(place: ModelPlace, entries: Sequence[LedgerEntry], aliases: dict[str, str]) -> dict[str, str | None]:
    """Alias → version, None to remove it, where it is another one. Versions are found by digest and not by number:
    another MLflow numbers them anew, and an alias whose model it does not have is removed there."""

    def version_of(entry: LedgerEntry) -> str | None:
        found = place.registry.find_version(place.model_name, entry.model_digest)
        return found.version if found else None

    champion = version_of(entries[-1])
    former = former_champions(entries)
    wanted = {"champion": champion, "previous": version_of(former[-1]) if former else None}
    if aliases.get("challenger") == champion:
        wanted["challenger"] = None
    return {alias: version for alias, version in wanted.items() if aliases.get(alias) != version}


def _is_mirrored(place: ModelPlace, entry: LedgerEntry) -> bool:
    return place.store.exists(_mark(place.model_name, place.registry.uri, entry))


def _mark(model_name: str, tracking_uri: str, entry: LedgerEntry) -> str:
    return f"{STEP}/mirrored/{model_name}/{_told_apart(tracking_uri)}/{entry.number:08d}"


def _is_announced(place: ModelPlace) -> bool:
    """Whether a process is setting the aliases. Announcements of dead ones are removed."""
    found = place.store.objects(_announcements(place))
    oldest = time.time() - ANNOUNCED_SECONDS
    old = [announcement.key for announcement in found if announcement.modified_at < oldest]
    if old:
        place.store.remove(old)
    return len(found) > len(old)


def _announcements(place: ModelPlace) -> str:
    return f"{STEP}/mirroring/{place.model_name}/{_told_apart(place.registry.uri)}"


def _told_apart(tracking_uri: str) -> str:
    return digest_bytes(without_password(tracking_uri).encode())[:16]


def _too_slow(place: ModelPlace) -> PlatformError:
    return PlatformError(
        f"{place.model_name}: MLflow's aliases were not set within {SETTING_SECONDS} s; expected them to be. What the "
        "ledger says stands. Check that MLflow answers, then start again: the aliases are set."
    )


def _restless(place: ModelPlace) -> PlatformError:
    return PlatformError(
        f"{place.model_name}: the champion changed {MAX_TURNS} times while its aliases were set; expected it to stand "
        "still for a moment. Start again."
    )
