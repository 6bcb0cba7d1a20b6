"""Pins of frozen models: where one is found, and what its bytes must be, so that any machine can fetch and check it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from data_prep.pretrained import PretrainedRef, digest_of, model_files, resolve
from infra.digests import digest_file
from infra.errors import ConfigError, IntegrityError
from infra.outputs import Manifest, manifest_key, read_manifest
from infra.part_cache import PartCache
from infra.store import LocalStore, Store, open_store


class Pin(BaseModel):
    """One frozen model: where it is found, and what its bytes must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ref: PretrainedRef
    digest: str
    """As in fingerprints."""
    files: dict[str, str] = Field(min_length=1)
    """sha256 of every file that is read."""
    base_fingerprint: str | None = None
    """The `base` output that made it, where `ref` names one."""
    store_uri: str | None = None
    """Where that output lay when the pin was made."""


def pin(ref: PretrainedRef, base: Manifest | None, cache: PartCache) -> Pin:
    """The pin of a frozen model; reads all of its files once."""
    if ref.folder:
        ref = ref.model_copy(update={"folder": ref.folder.absolute()})
    folder = resolve(ref, base, cache)
    return Pin(
        ref=ref,
        digest=digest_of(ref, base),
        files={path.name: digest_file(path) for path in model_files(folder)},
        base_fingerprint=base.fingerprint if ref.base and base else None,
        store_uri=cache.store.uri if ref.base else None,
    )


def verified_folder(model: Pin, cache_dir: Path, store: Store | None) -> Path:
    """Local folder of a pinned model, every file compared with the pin."""
    if model.ref.base:
        store = _store_with(model, store)
        base = read_manifest(store, _base_key(model))
        folder = resolve(model.ref, base, PartCache(store, cache_dir))
    else:
        # Neither a hub model nor a folder is in a store; the cache's own stands in.
        folder = resolve(model.ref, None, PartCache(LocalStore(cache_dir), cache_dir))
    found = {path.name for path in model_files(folder)}
    if surplus := sorted(found - set(model.files)):
        raise IntegrityError(
            f"{folder}: found the file {surplus[0]}, which was not there at training; expected "
            f"{', '.join(sorted(model.files))}. Remove it, or train anew with the changed model."
        )
    for name, expected in sorted(model.files.items()):
        check_file(folder / name, expected, "Delete this folder if it is a cache, or restore the model's files.")
    return folder


def check_file(path: Path, expected: str, remedy: str) -> None:
    """Raises IntegrityError where the file is missing or its bytes are others."""
    found = digest_file(path) if path.is_file() else None
    if found != expected:
        told = f"sha256 {found[:12]}…" if found else "no file"
        raise IntegrityError(f"{path}: found {told}; expected sha256 {expected[:12]}…. {remedy}")


def _base_key(model: Pin) -> str:
    return manifest_key("base", model.base_fingerprint or "none")


def _store_with(model: Pin, store: Store | None) -> Store:
    key = _base_key(model)
    pinned = [open_store(model.store_uri)] if model.store_uri else []
    for candidate in ([store] if store else []) + pinned:
        if candidate.exists(key):
            return candidate
    looked = ", ".join(dict.fromkeys(one.uri for one in ([store] if store else []) + pinned))
    raise ConfigError(
        f"base output {(model.base_fingerprint or '')[:12]}… was not found in {looked or 'any store'}; expected the "
        f"store that holds this model's {model.ref.base}. Name it with --store or FROSTLINE_STORE_URI."
    )
