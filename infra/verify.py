"""Reading everything committed again: every part of every output against its digest."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import IntegrityError
from infra.outputs import Manifest, Part, read_manifest
from infra.part_cache import PartCache
from infra.store import Store


@dataclass(frozen=True)
class StoreReport:
    num_outputs: int
    num_parts: int
    damaged: list[str]
    """One sentence per missing or altered object and manifest that lists it."""


def manifests(store: Store) -> Iterator[tuple[str, Manifest | IntegrityError]]:
    """(key, manifest or what is wrong with it) of every committed output."""
    for key in store.list(""):
        folders = key.split("/")
        if len(folders) == 3 and folders[2] == "manifest.json":
            try:
                found = read_manifest(store, key)
            except IntegrityError as error:
                yield key, error
            else:
                if found is not None:
                    yield key, found


def verify_store(store: Store) -> StoreReport:
    """Digest each committed part once, however many outputs share it."""
    damaged: list[str] = []
    checked: dict[tuple[str, str], str | None] = {}
    num_outputs = 0
    with tempfile.TemporaryDirectory(prefix="frostline-verify-") as folder:
        cache = PartCache(store, Path(folder))
        for key, manifest in manifests(store):
            num_outputs += 1
            if isinstance(manifest, IntegrityError):
                damaged.append(str(manifest))
                continue
            for part in manifest.parts:
                place = (manifest.step, part.digest)
                if place not in checked:
                    checked[place] = _problem(cache, manifest.step, part, Path(folder) / "part")
                if checked[place] is not None:
                    damaged.append(f"{key}: {checked[place]}")
    return StoreReport(num_outputs, len(checked), damaged)


def _problem(cache: PartCache, step: str, part: Part, target: Path) -> str | None:
    """What is wrong with a part, or None."""
    try:
        cache.fetch(step, part, target)
    except IntegrityError as error:
        return str(error)
    finally:
        target.unlink(missing_ok=True)
    return None
