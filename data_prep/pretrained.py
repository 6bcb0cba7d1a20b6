"""Frozen checkpoints by reference: a hub id at a commit, a local folder, or a part of the `base` step's output.

Only configuration, tokenizer files and safetensors are ever read: no pickle, no remote code.
"""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from infra.digests import digest_bytes, digest_file, digest_json
from infra.errors import ConfigError, DataError
from infra.outputs import Manifest
from infra.part_cache import PartCache

FILE_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")


class PretrainedRef(BaseModel):
    """One frozen model. Exactly one of `id` (with `revision`), `folder` and `base` is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str | None = None
    revision: str | None = None
    """A commit of 40 hexadecimal digits. A branch name would make the outputs irreproducible."""
    folder: Path | None = None
    base: str | None = None
    """`vision_tower` or `language_model`: what this recipe's own `base` step trained."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "PretrainedRef":
        given = [name for name in ("id", "folder", "base") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"found {given or 'none'} of id, folder, base; expected exactly one")
        is_commit = re.fullmatch(r"[0-9a-f]{40}", self.revision or "") is not None
        if self.id and not is_commit:
            raise ValueError(f"revision of {self.id} is {self.revision!r}; expected a commit of 40 hexadecimal digits")
        return self


def digest_of(ref: PretrainedRef, base: Manifest | None) -> str:
    """What identifies the model in fingerprints. Reads no weights of a hub model: its commit names them."""
    if ref.id:
        return digest_bytes(f"{ref.id}@{ref.revision}".encode())
    if ref.folder:
        files = model_files(ref.folder)
        return digest_json([[path.name, digest_file(path)] for path in files])
    return _base_of(ref, base).identity[f"{ref.base}_digest"]


def resolve(ref: PretrainedRef, base: Manifest | None, cache: PartCache) -> Path:
    """A local folder with the model's files. Downloads a hub model on first use."""
    if ref.id:
        return _download(ref.id, ref.revision or "")
    if ref.folder:
        model_files(ref.folder)
        return ref.folder.absolute()
    return cache.folder_of(_base_of(ref, base), str(ref.base))


def local_folder(ref: PretrainedRef) -> Path | None:
    """Where a model's files lie on this machine, if they do. Downloads nothing."""
    if ref.folder:
        return ref.folder.absolute()
    if ref.id is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(ref.id, revision=ref.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def model_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that are read, sorted by name. Raises ConfigError where there is no model."""
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}: no config.json was found; expected a transformers checkpoint folder with safetensors. "
            "Check the path, or name a hub id and revision."
        )
    files = sorted({path for pattern in FILE_PATTERNS for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix == ".safetensors" for path in files):
        raise DataError(
            f"{folder}: no *.safetensors was found; expected safetensors weights (pickled weights are never read). "
            "Convert them with save_pretrained(safe_serialization=True)."
        )
    return files


def _base_of(ref: PretrainedRef, base: Manifest | None) -> Manifest:
    if base is None:
        raise ConfigError(f"a model refers to base: {ref.base}, but the recipe has no `base` section. Add one.")
    if f"{ref.base}_digest" not in base.identity:
        raise ConfigError(f"base: {ref.base!r} was found; expected vision_tower or language_model.")
    return base


def _download(model_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=list(FILE_PATTERNS)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{model_id}@{revision[:12]}: cannot be fetched from the hub ({reason}); expected a public model at this "
            "commit or one that HF_TOKEN may read. Check the id, the commit and the network, or give a local folder."
        ) from error
