"""Numbered, append-only logs in the store: entry n is created conditionally, so each number has one winner.

Numbers have no gaps. A listing only tells where to look; which entries there are, reading tells.
"""

import re
from collections.abc import Mapping
from typing import Any

from infra.errors import IntegrityError
from infra.sealed import NUM_READS, read_checked, seal, unseal
from infra.store import Store

ENTRY = re.compile(r"/(\d{8})\.json$")


def folder_of(step: str, name: str) -> str:
    """Where a step's log of commits lies. Any other folder may hold a log too, by the `*_in` functions."""
    return f"{step}/log/{name}"


def entries(store: Store, step: str, name: str) -> list[dict[str, Any]]:
    """All entries, oldest first. Raises IntegrityError naming one that is damaged or missing."""
    return entries_in(store, folder_of(step, name))


def newest(store: Store, step: str, name: str) -> dict[str, Any] | None:
    return newest_in(store, folder_of(step, name))


def append(store: Store, step: str, name: str, entry: Mapping[str, Any]) -> int:
    """Write the entry under the next free number, unless an equal one is there. Returns its number."""
    return append_in(store, folder_of(step, name), entry)


def append_in(store: Store, folder: str, entry: Mapping[str, Any]) -> int:
    """`append` to the log in this folder."""
    while True:
        found = entries_in(store, folder)
        for earlier in found:
            if earlier == {"number": earlier["number"], **entry}:
                return int(earlier["number"])
        if create_in(store, folder, len(found) + 1, entry):
            return len(found) + 1


def entries_in(store: Store, folder: str) -> list[dict[str, Any]]:
    """All entries of the log in this folder, oldest first."""
    found = _from(store, folder, 1)
    for _ in range(NUM_READS):  # a listing may be damaged on its way, too
        expected = _highest(store, folder)
        if expected <= len(found):
            return found
        found += _from(store, folder, len(found) + 1)
    raise IntegrityError(
        f"{store.uri}/{entry_key(folder, len(found) + 1)}: missing; expected entries up to number {expected}. "
        "Restore this object from a backup: numbers of a log have no gaps."
    )


def newest_in(store: Store, folder: str) -> dict[str, Any] | None:
    highest = _highest(store, folder)
    found = _from(store, folder, highest) if highest else []
    return found[-1] if found else next(reversed(entries_in(store, folder)), None)


def entry_in(store: Store, folder: str, number: int) -> dict[str, Any] | None:
    """Entry `number`, where it is there."""
    return _read(store, entry_key(folder, number))


def create_in(store: Store, folder: str, number: int, entry: Mapping[str, Any]) -> bool:
    """Write entry `number`. False when another writer has it with other content."""
    return store.create(entry_key(folder, number), seal({"number": number, **entry}))


def _from(store: Store, folder: str, number: int) -> list[dict[str, Any]]:
    """Entries `number`, `number + 1` … as far as there are any."""
    found: list[dict[str, Any]] = []
    while (entry := _read(store, entry_key(folder, number + len(found)))) is not None:
        found.append(entry)
    return found


def _read(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return read_checked(store, key, unseal)
    except ValueError as error:
        raise IntegrityError(
            f"{store.uri}/{key}: not an entry of a log ({error}); expected what Frostline wrote. "
            "Restore this object from a backup: what was committed and promoted is found through it."
        ) from error


def _highest(store: Store, folder: str) -> int:
    numbers = (ENTRY.search(key) for key in store.list(folder))
    return max((int(number[1]) for number in numbers if number), default=0)


def entry_key(folder: str, number: int) -> str:
    """Where entry `number` of the log in this folder lies."""
    return f"{folder}/{number:08d}.json"
