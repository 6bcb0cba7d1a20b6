"""Finding and removing what nothing refers to any more: parts, leftovers of killed writers, journals of finished work.

Logs and ledgers are never touched. What is younger than the grace period is never touched either, since a part is
uploaded before anything can refer to it.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from infra.digests import canonical_json
from infra.errors import IntegrityError
from infra.outputs import UNFINISHED, manifest_key
from infra.sealed import read_checked, unseal
from infra.store import PROBE_FOLDER, LocalStore, Store, StoredObject
from infra.verify import is_manifest, listings

DIGEST = re.compile(rb"[0-9a-f]{64}")
PARTS, JOURNALS, PROBES, WRITES, CACHE = "parts", "journals", "probes", "unfinished writes", "cache"


@dataclass(frozen=True)
class Garbage:
    """One object that can go."""

    kind: str
    object: StoredObject


def find_garbage(store: Store, cache_dir: Path, grace_seconds: float) -> list[Garbage]:
    """Raises IntegrityError where a manifest is damaged: what it lists cannot be told from garbage."""
    oldest = time.time() - grace_seconds
    objects = store.objects("")  # before the references: whatever is referred to later is younger, or listed by then
    referenced = _referenced(store)
    committed = {found.key for found in objects if is_manifest(found.key)}
    garbage = [Garbage(kind, found) for found in objects if (kind := _kind_of(found.key, referenced, committed))]
    garbage += [Garbage(WRITES, found) for found in store.unfinished()]
    garbage += [Garbage(CACHE, found) for found in LocalStore(cache_dir).unfinished()]
    return [one for one in garbage if one.object.modified_at < oldest]


def remove_garbage(store: Store, cache_dir: Path, garbage: list[Garbage]) -> list[Garbage]:
    """Remove it, and return what was removed: not an object that was written again since it was found."""
    steps = {one.object.key.split("/")[0] for one in garbage if one.kind == PARTS}
    now = {found.key: found for step in sorted(steps) for found in store.objects(f"{step}/parts")}
    referenced = _referenced(store) if steps else set()
    removed = [one for one in garbage if one.kind != PARTS or _is_still_garbage(one, now, referenced)]
    store.remove([one.object.key for one in removed if one.kind not in (WRITES, CACHE)])
    for one in removed:
        if one.kind == PARTS:  # in a local store the cache's copy is the same file, and would keep its bytes
            for kind in ("parts", "stamps"):
                (cache_dir / kind / one.object.key.rpartition("/")[2]).unlink(missing_ok=True)
        if one.kind in (WRITES, CACHE):
            (store if one.kind == WRITES else LocalStore(cache_dir)).discard(one.object)
    return removed


def _is_still_garbage(one: Garbage, now: dict[str, StoredObject], referenced: set[str]) -> bool:
    key = one.object.key
    return now.get(key) == one.object and key.rpartition("/")[2] not in referenced


def _kind_of(key: str, referenced: set[str], committed: set[str]) -> str | None:
    """The kind of garbage that an object is, or None."""
    folders = key.split("/")
    if folders[0] == PROBE_FOLDER:
        return PROBES
    if len(folders) == 3 and folders[1] == "parts":
        return None if folders[2] in referenced else PARTS
    if len(folders) > 3 and folders[1] in UNFINISHED and manifest_key(folders[0], folders[2]) in committed:
        return JOURNALS
    return None


def _referenced(store: Store) -> set[str]:
    """Digests that a manifest, a note or a checkpoint names.

    Notes are read before manifests are listed: an output that commits meanwhile removes its notes after its manifest
    is there, so one of the two is seen."""
    found: set[str] = set()
    for key in store.list(""):
        folders = key.split("/")
        if len(folders) > 3 and folders[1] in UNFINISHED and key.endswith(".json"):
            found.update(match.decode() for match in DIGEST.findall(_text_of(store, key)))
    for _, listing in listings(store, store.list("")):
        if isinstance(listing, IntegrityError):
            raise listing
        found.update(part.digest for part in listing.parts)
    return found


def _text_of(store: Store, key: str) -> bytes:
    """JSON of a note or a checkpoint; nothing of a damaged note, which counts as none everywhere."""
    if key.split("/")[1] != "journal":
        return store.read(key) or b""
    try:
        return canonical_json(read_checked(store, key, unseal))
    except ValueError:
        return b""
