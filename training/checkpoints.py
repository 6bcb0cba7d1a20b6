"""Checkpoints in the store: safetensors and JSON, committed by a manifest, newest that verifies wins.

{prefix}/{step:08d}/{name}.safetensors   a dictionary of tensors; more of it in {name}.1.safetensors, ...
{prefix}/{step:08d}/state.json           position, curves, whatever is not a tensor
{prefix}/{step:08d}/manifest.json        created last, with every file's sha256: its presence means complete
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.digests import canonical_json, digest_bytes
from infra.errors import IntegrityError
from infra.store import Store

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"
PIECE_BYTES = 128 * 2**20
"""Of a file, but for a larger tensor: writing and reading take the memory of a piece and not of all tensors again."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the state after `step` steps."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """By the name they were saved under."""
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one training."""

    def __init__(self, store: Store, prefix: str, keep: int) -> None:
        self.store, self.prefix, self.keep = store, prefix.rstrip("/"), keep

    def save(
        self,
        step: int,
        tensors: Mapping[str, dict[str, Tensor]],
        state: Mapping[str, Any],
        protected: Collection[int] = (),
    ) -> None:
        """Write and commit. Writes nothing where this step's checkpoint is there and verifies; replaces a damaged one.

        Then the `keep` newest stay, and the steps in `protected`; older ones go."""
        committed = self.store.exists(self._key(step, MANIFEST))
        if committed and not self._verifies(step):
            self.delete(step)
            committed = False
        if not committed:
            self._commit(step, tensors, state)
        self._forget_before(step, protected)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies, and a sentence for each newer one that does not."""
        skipped: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), skipped
            except IntegrityError as error:
                skipped.append(f"skipped the checkpoint of step {step}: {error}")
        return None, skipped

    def load(self, step: int) -> Checkpoint:
        """Raises IntegrityError naming the file that is missing or is not what the manifest says."""
        from safetensors.torch import load

        digests = self._manifest(step)
        tensors: dict[str, dict[str, Tensor]] = {}
        state: dict[str, Any] = {}
        for name, digest in digests.items():
            data = self.store.read(self._key(step, name))
            found = "nothing" if data is None else f"bytes with sha256 {digest_bytes(data)[:12]}…"
            if data is None or digest_bytes(data) != digest:
                raise IntegrityError(
                    f"{self.store.uri}/{self._key(step, name)}: found {found}; expected sha256 {digest[:12]}…. "
                    "An older checkpoint is used where there is one."
                )
            if name == STATE:
                state = json.loads(data)
            else:
                tensors.setdefault(name.split(".")[0], {}).update(load(data))
        return Checkpoint(step, tensors, state)

    def steps(self) -> list[int]:
        """Steps with a manifest, ascending."""
        found = [key.split("/")[-2] for key in self.store.list(self.prefix) if key.endswith("/" + MANIFEST)]
        return sorted(int(name) for name in found if name.isdigit())

    def delete(self, step: int) -> None:
        """The manifest goes first: what is half deleted is no checkpoint."""
        self.store.delete(self._key(step, MANIFEST))
        self.store.delete(f"{self.prefix}/{step:08d}")

    def _manifest(self, step: int) -> dict[str, str]:
        key = self._key(step, MANIFEST)
        try:
            manifest = json.loads(self.store.read(key) or b"")
            if manifest["step"] != step or STATE not in manifest["files"]:
                raise ValueError("fields differ")
            return {str(name): str(digest) for name, digest in manifest["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{self.store.uri}/{key}: not a checkpoint's manifest; expected the digests of step {step}'s files. "
                "An older checkpoint is used where there is one."
            ) from error

    def _verifies(self, step: int) -> bool:
        try:
            self.load(step)
        except IntegrityError:
            return False
        return True

    def _commit(self, step: int, tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
        from safetensors.torch import save

        files: dict[str, str] = {}
        for name, named in tensors.items():
            for number, piece in enumerate(_pieces(_ready(named))):
                file = f"{name}.{number}{SUFFIX}" if number else name + SUFFIX
                files[file] = self._write(step, file, save(piece))
        files[STATE] = self._write(step, STATE, canonical_json(dict(state)))
        self.store.create(self._key(step, MANIFEST), canonical_json({"step": step, "files": files}))

    def _write(self, step: int, name: str, data: bytes) -> str:
        """The file's digest."""
        self.store.write(self._key(step, name), data)
        return digest_bytes(data)

    def _forget_before(self, step: int, protected: Collection[int]) -> None:
        """Newer steps than the one just saved are damaged, or of another process: none of them counts as kept."""
        kept = {*[other for other in self.steps() if other <= step][-self.keep :], *protected}
        folders = {key.split("/")[-2] for key in self.store.list(self.prefix)}
        for other in sorted(int(name) for name in folders if name.isdigit()):
            if other < step and other not in kept:  # torn ones too, which nobody will complete
                self.delete(other)

    def _key(self, step: int, name: str) -> str:
        return f"{self.prefix}/{step:08d}/{name}"


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The same tensors in dictionaries of at most PIECE_BYTES, or of one tensor; of nothing, one without."""
    piece: dict[str, Tensor] = {}
    size_bytes = 0
    for name, tensor in tensors.items():
        if piece and size_bytes + tensor.nbytes > PIECE_BYTES:
            yield piece
            piece, size_bytes = {}, 0
        piece[name] = tensor
        size_bytes += tensor.nbytes
    yield piece


def _ready(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In order of their names, so that equal tensors make equal bytes. Raises RuntimeError where two share memory."""
    return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
