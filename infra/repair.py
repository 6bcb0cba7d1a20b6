"""Taking away what `verify` found damaged, so that the next run makes exactly that anew and reuses everything else.

A part of which this machine's cache holds the right bytes is put back. For any other, each manifest that lists it is
replaced by a note of what remains, which the step goes on from. A damaged manifest goes, and its output is made anew.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infra.digests import digest_file
from infra.errors import IntegrityError
from infra.part_cache import PartCache
from infra.remaining import Remaining, take_back
from infra.sealed import read_checked, seal, unseal
from infra.store import Store
from infra.verify import Damage, StoreReport, listings


@dataclass(frozen=True)
class Repair:
    """What was done."""

    put_back: list[str] = field(default_factory=list)
    """Parts whose bytes this machine's cache held."""
    taken_back: list[Remaining] = field(default_factory=list)
    """Outputs whose lost parts the next run makes anew."""
    removed: list[str] = field(default_factory=list)
    """Manifests: the next run makes these outputs anew."""
    rewritten: list[str] = field(default_factory=list)
    """Entries of logs of commits."""
    beyond_repair: list[Damage] = field(default_factory=list)


def repair_store(store: Store, report: StoreReport, cache: PartCache) -> Repair:
    """Killed half way, it is repeated by verifying again: notes come before what they replace."""
    done = Repair()
    lost: dict[str, set[str]] = defaultdict(set)
    for damage in report.parts:
        if _put_back(store, damage.file, cache):
            done.put_back.append(damage.file)
            continue
        for key in damage.outputs:
            lost[key].add(_name(damage.file))
    for key, found in listings(store, lost):
        assert not isinstance(found, IntegrityError), "it was read a moment ago"
        remaining = Remaining(found.manifest, found.lost | lost[key])
        take_back(store, remaining)
        done.taken_back.append(remaining)
    for damage in report.parts:
        if damage.file not in done.put_back:
            store.delete(damage.file)
    for damage in report.manifests:
        store.delete(damage.file)
        done.removed.append(damage.file)
    for damage in report.log_entries:
        if damage.file.split("/")[1] == "log":
            _rewrite(store, damage.file)
            done.rewritten.append(damage.file)
        else:
            done.beyond_repair.append(damage)
    return done


def _put_back(store: Store, key: str, cache: PartCache) -> bool:
    """Upload the part from the cache where its bytes there are right; the cache may share them with the store."""
    cached = cache.folder / "parts" / _name(key)
    if not cached.is_file() or digest_file(cached) != _name(key):
        return False
    store.upload(cached, key, _name(key))
    return True


def _rewrite(store: Store, key: str) -> None:
    """Enter an output that belongs into this log and is in no other entry; where there is none, an entry of nothing.

    Which output it was does not matter: all that are there can be found again."""
    folder, step = key.rpartition("/")[0], key.split("/")[0]
    entered = {_fingerprint(store, key) for key in store.list(folder)}
    keys = (key for key in store.list(step))
    fitting = (found.manifest for _, found in listings(store, keys) if not isinstance(found, IntegrityError))
    candidates = [
        manifest
        for manifest in sorted(fitting, key=lambda manifest: manifest.record.created_at)
        if _name(folder) in (manifest.name, *manifest.identity.values()) and manifest.fingerprint not in entered
    ]
    fingerprint = candidates[0].fingerprint if candidates else ""
    store.write(key, seal({"number": int(Path(key).stem), "fingerprint": fingerprint}))


def _fingerprint(store: Store, key: str) -> str:
    try:
        return str((read_checked(store, key, unseal) or {}).get("fingerprint", ""))
    except ValueError:
        return ""


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def to_run(repair: Repair) -> Iterable[str]:
    """One line per output that is to be made again."""
    for remaining in repair.taken_back:
        manifest = remaining.manifest
        yield f"recipe {manifest.name}, {manifest.step}: {len(remaining.lost)} of {len(manifest.parts)} parts"
    for key in repair.removed:
        yield f"{key}: the whole output"
