"""Numbered, append-only logs in the store: entry n is created conditionally, so each number has one winner."""

import json
from collections.abc import Mapping
from typing import Any

from infra.digests import canonical_json
from infra.store import Store


def folder_of(step: str, name: str) -> str:
    """Where a step's log of commits lies. Any other folder may hold a log too, by the `*_in` functions."""
    return f"{step}/log/{name}"


def entries(store: Store, step: str, name: str) -> list[dict[str, Any]]:
    """All entries, oldest first."""
    return entries_in(store, folder_of(step, name))


def newest(store: Store, step: str, name: str) -> dict[str, Any] | None:
    return newest_in(store, folder_of(step, name))


def append(store: Store, step: str, name: str, entry: Mapping[str, Any]) -> int:
    """Write the next free entry and return its number."""
    folder = folder_of(step, name)
    number = len(store.list(folder)) + 1
    while not create_in(store, folder, number, entry):
        number += 1
    return number


def entries_in(store: Store, folder: str) -> list[dict[str, Any]]:
    """All entries of the log in this folder, oldest first."""
    found = [json.loads(store.read(key) or b"{}") for key in store.list(folder)]
    return [entry for entry in found if entry]


def newest_in(store: Store, folder: str) -> dict[str, Any] | None:
    keys = store.list(folder)
    return json.loads(store.read(keys[-1]) or b"null") if keys else None


def create_in(store: Store, folder: str, number: int, entry: Mapping[str, Any]) -> bool:
    """Write entry `number`. False when another writer has it."""
    return store.create(f"{folder}/{number:08d}.json", canonical_json({"number": number, **entry}))
