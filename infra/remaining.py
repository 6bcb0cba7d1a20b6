"""What is left of an output that was taken back because parts of it are damaged.

{store}/{step}/journal/{fingerprint}/remaining.json  its manifest and which of its parts are lost

The note lies in the output's journal: the next attempt at the output goes on from it, makes what is lost and reuses the
rest, and the commit removes it.
"""

from dataclasses import dataclass

from infra.errors import IntegrityError
from infra.outputs import Manifest, Part, manifest_key, problem_of, read_manifest
from infra.sealed import read_checked, seal, unseal
from infra.store import Store

NOTE = "remaining.json"


@dataclass(frozen=True)
class Remaining:
    """An output as far as it is there; all of a committed one."""

    manifest: Manifest
    lost: frozenset[str] = frozenset()
    """Digests of parts that have to be made again."""

    @property
    def parts(self) -> list[Part]:
        return [part for part in self.manifest.parts if part.digest not in self.lost]

    def parts_of(self, kind: str) -> list[Part]:
        return [part for part in self.parts if part.kind == kind]


def find_remaining(store: Store, step: str, fingerprint: str) -> Remaining | None:
    """The committed output, else what was left when it was taken back, else None."""
    committed = read_manifest(store, manifest_key(step, fingerprint))
    return Remaining(committed) if committed is not None else read_remaining(store, note_key(step, fingerprint))


def read_remaining(store: Store, key: str) -> Remaining | None:
    try:
        found = read_checked(store, key, unseal)
        return (
            None if found is None else Remaining(Manifest.model_validate(found["manifest"]), frozenset(found["lost"]))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{store.uri}/{key}: not a note of what remains ({problem_of(error)}); "
            "expected what `frostline verify --repair` wrote. Run that again, and the output is made anew."
        ) from error


def take_back(store: Store, remaining: Remaining) -> None:
    """Replace the manifest by a note of what is intact. Killed half way, it leaves the output as it was."""
    manifest = remaining.manifest
    note = {"manifest": manifest.model_dump(mode="json"), "lost": sorted(remaining.lost)}
    store.write(note_key(manifest.step, manifest.fingerprint), seal(note))
    store.delete(manifest_key(manifest.step, manifest.fingerprint))


def note_key(step: str, fingerprint: str) -> str:
    return f"{step}/journal/{fingerprint}/{NOTE}"
