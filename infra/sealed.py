"""JSON objects in the store that carry their own digest, and reading again what arrived damaged.

A connection may give wrong bytes of the right length: reading again cures that, and not an object that is damaged.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from infra.digests import canonical_json, digest_json
from infra.store import Store

Parsed = TypeVar("Parsed")
NUM_READS = 4
"""Of an object whose bytes do not match their digest, before it counts as damaged."""


def seal(value: Mapping[str, Any]) -> bytes:
    """The value as JSON beside its digest."""
    return canonical_json({"value": dict(value), "digest": digest_json(dict(value))})


def unseal(data: bytes) -> dict[str, Any]:
    """The value again. Raises ValueError where it does not match its digest."""
    found = json.loads(data)
    if not isinstance(found, dict) or found.keys() != {"value", "digest"} or not isinstance(found["value"], dict):
        raise ValueError("it is no JSON object beside its digest")
    value: dict[str, Any] = found["value"]
    if digest_json(value) != found["digest"]:
        stated = str(found["digest"])
        raise ValueError(f"its content has the digest {digest_json(value)[:12]}…, but it states {stated[:12]}…")
    return value


def read_checked(store: Store, key: str, parse: Callable[[bytes], Parsed]) -> Parsed | None:
    """The parsed object, or None where there is none. Raises the ValueError of `parse` when no reading satisfies it."""
    for reading in range(NUM_READS):
        data = store.read(key)
        if data is None:
            return None
        try:
            return parse(data)
        except ValueError:
            if reading == NUM_READS - 1:
                raise
    raise AssertionError("every reading returns or raises")
