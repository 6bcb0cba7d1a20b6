"""Verified copies of parts on this machine. Bytes enter only if they match their digest.

{cache}/parts/{digest}     the bytes; on the store's own file system the same file under a second name, never written to
{cache}/stamps/{digest}    size and time of change when they were verified: a file that changed since is fetched again
{cache}/folders/{digest}/  copies under their names: people open and save these, and a part may be the store's own file
"""

import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from infra.digests import digest_file, digest_json
from infra.disk import not_writable
from infra.errors import IntegrityError
from infra.outputs import Manifest, Part, part_key
from infra.sealed import NUM_READS
from infra.store import Store

Made = TypeVar("Made")
_REMEDY = "Run `frostline verify --repair`, which removes what is damaged, then start again."


@dataclass(frozen=True)
class Brought:
    """A local file as it was when its digest was taken."""

    digest: str
    size_bytes: int
    stamp: str


def bring(store: Store, key: str, digest: str, path: Path) -> Brought | None:
    """Download an object, again while its digest is another: a connection may give wrong bytes of the right length.

    None where there is none."""
    for _ in range(NUM_READS):
        path.unlink(missing_ok=True)
        try:
            store.download(key, path)
        except FileNotFoundError:
            return None
        stamp = _stamp_of(path)  # before the digest, so that a change during it shows
        found = Brought(digest_file(path), path.stat().st_size, stamp)
        if found.digest == digest:
            break
    return found


class PartCache:
    """A local folder of parts by digest. Safe for many processes: files appear by one rename."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder.absolute()

    def path(self, step: str, part: Part) -> Path:
        """Local path of the part's verified bytes. Raises IntegrityError naming the damaged object."""
        target = self.folder / "parts" / part.digest
        stamp = self.folder / "stamps" / part.digest
        try:
            if stamp.read_text() == _stamp_of(target):
                return target
        except FileNotFoundError:
            pass  # it comes in for the first time
        verified = self.fetch(step, part, target)
        self._write(stamp, lambda temporary: temporary.write_text(verified))
        return target

    def fetch(self, step: str, part: Part, target: Path) -> str:
        """Bring the part to `target`, verified. Returns the stamp of the verified bytes."""
        return self._write(target, lambda temporary: self._bring(part_key(step, part.digest), part, temporary))

    def folder_of(self, manifest: Manifest, prefix: str) -> Path:
        """A local folder made of the output's parts whose names start with `prefix/`; a changed file is made anew."""
        parts = sorted((part for part in manifest.parts if part.name.startswith(prefix + "/")), key=lambda p: p.name)
        root = self.folder / "folders" / digest_json([[part.name, part.digest] for part in parts]) / prefix
        for part in parts:
            verified = self.path(manifest.step, part)
            target = root / part.name.removeprefix(prefix + "/")
            if not (target.is_file() and digest_file(target) == part.digest):
                self._write(target, partial(shutil.copyfile, verified))
        return root

    def _bring(self, key: str, part: Part, temporary: Path) -> str:
        brought = bring(self.store, key, part.digest, temporary)
        if brought is None:
            raise IntegrityError(f"{self.store.uri}/{key}: missing; expected {_told(part)}. {_REMEDY}")
        if brought.digest != part.digest:
            raise IntegrityError(
                f"{self.store.uri}/{key}: found bytes with sha256 {brought.digest[:12]}…; expected {_told(part)}. "
                f"{_REMEDY}"
            )
        return brought.stamp

    def _write(self, target: Path, fill: Callable[[Path], Made]) -> Made:
        """Let `fill` make a file beside the target, and move it there when it is complete."""
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = fill(temporary)
            temporary.replace(target)
        except OSError as error:
            raise not_writable(str(self.folder), error, "FROSTLINE_CACHE_DIR") from error
        finally:
            with suppress(OSError):  # what cannot be removed is never read
                temporary.unlink(missing_ok=True)
        return made


def _stamp_of(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _told(part: Part) -> str:
    return f"{part.kind} with sha256 {part.digest[:12]}… and {part.size_bytes} bytes"
