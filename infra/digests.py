"""sha256 of bytes, files and canonical JSON."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8, and no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: Any) -> str:
    return digest_bytes(canonical_json(value))


def digest_sorted(digests: Iterable[str]) -> str:
    """Digest of a multiset of digests: independent of their order, unlike a plain chain, and safe, unlike XOR."""
    hasher = hashlib.sha256()
    for digest in sorted(digests):
        hasher.update(bytes.fromhex(digest))
    return hasher.hexdigest()
