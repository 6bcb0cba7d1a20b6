"""Opening a store by its URI, and refusing one that cannot keep two writers apart."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlparse

from infra.addresses import without_password
from infra.errors import ConfigError
from infra.store.local import LocalStore
from infra.store.protocol import Store

NUM_PROBE_RACERS = 16
PROBE_FOLDER = ".probe"


def open_store(uri: str) -> Store:
    """The store at a path, `file://` or `s3://` URI. Others are refused: their `create` is exists-then-write."""
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        from infra.store.s3 import S3Store

        return S3Store(uri)
    if parsed.scheme in ("", "file"):
        return LocalStore(Path(unquote(parsed.path) if parsed.scheme else uri))
    raise ConfigError(
        f"store {without_password(uri)!r} has the scheme {parsed.scheme!r}; expected a path or s3://bucket/prefix. "
        "Only these create objects conditionally, which is what keeps two writers apart."
    )


def probe(store: Store) -> None:
    """Refuse a store that is not writable, or whose conditional create lets more than one racer win."""
    key = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    with ThreadPoolExecutor(NUM_PROBE_RACERS) as pool:
        wins = sum(pool.map(lambda racer: store.create(key, str(racer).encode()), range(NUM_PROBE_RACERS)))
    store.delete(key)
    if wins != 1:
        raise ConfigError(
            f"{store.uri}: {wins} of {NUM_PROBE_RACERS} racers created the same object; expected exactly one. "
            "This store ignores conditional writes (If-None-Match) and cannot keep two runs apart: use another."
        )
