"""Verified copies of parts on this machine. Bytes enter only if they match their digest."""

import os
import tempfile
from pathlib import Path

from infra.digests import digest_file, digest_json
from infra.errors import IntegrityError
from infra.outputs import Manifest, Part
from infra.store import Store


class PartCache:
    """A local folder of parts by digest. Safe for many processes: files appear by one rename."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder.absolute()

    def path(self, step: str, part: Part) -> Path:
        """Local path of the part's verified bytes. Raises IntegrityError naming the damaged object."""
        target = self.folder / "parts" / part.digest
        if not target.exists():
            self.fetch(step, part, target)
        return target

    def fetch(self, step: str, part: Part, target: Path) -> None:
        """Copy the part to `target`, verified."""
        key = f"{step}/parts/{part.digest}"
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        os.close(handle)
        temporary = Path(name)
        try:
            try:
                self.store.download(key, temporary)
            except FileNotFoundError as error:
                raise IntegrityError(f"{self.store.uri}/{key}: missing; expected {_told(part)}. {_REMEDY}") from error
            found = digest_file(temporary)
            if found != part.digest:
                raise IntegrityError(
                    f"{self.store.uri}/{key}: found bytes with sha256 {found[:12]}…; expected {_told(part)}. {_REMEDY}"
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def folder_of(self, manifest: Manifest, prefix: str) -> Path:
        """A local folder made of the output's parts whose names start with `prefix/`."""
        parts = sorted((part for part in manifest.parts if part.name.startswith(prefix + "/")), key=lambda p: p.name)
        root = self.folder / "folders" / digest_json([[part.name, part.digest] for part in parts]) / prefix
        for part in parts:
            target = root / part.name.removeprefix(prefix + "/")
            if not target.exists():
                self.fetch(manifest.step, part, target)
        return root


_REMEDY = "Delete the object and the manifests that list it (`frostline verify` names them), then start again."


def _told(part: Part) -> str:
    return f"{part.kind} with sha256 {part.digest[:12]}… and {part.size_bytes} bytes"
