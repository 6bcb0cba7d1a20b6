"""Reading everything committed again: every part of every output against its digest, every manifest and log entry."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from infra.disk import scratch_folder, writing_below
from infra.errors import IntegrityError
from infra.log import ENTRY, entry_key
from infra.outputs import UNFINISHED, Manifest, Part, part_key, problem_of, read_manifest
from infra.part_cache import bring
from infra.remaining import NOTE, Remaining, read_remaining
from infra.sealed import read_checked, unseal
from infra.store import Store


@dataclass(frozen=True)
class Damage:
    """One object that is missing or is not what was written."""

    file: str
    expected: str
    found: str
    outputs: tuple[str, ...] = ()
    """Manifests that list it."""

    def __str__(self) -> str:
        listed = f", listed by {', '.join(self.outputs)}" if self.outputs else ""
        return f"{self.file}: found {self.found}; expected {self.expected}{listed}"


@dataclass(frozen=True)
class StoreReport:
    num_outputs: int
    num_parts: int
    parts: list[Damage] = field(default_factory=list)
    manifests: list[Damage] = field(default_factory=list)
    """And notes of what remains of an output."""
    log_entries: list[Damage] = field(default_factory=list)

    @property
    def damaged(self) -> list[Damage]:
        return [*self.parts, *self.manifests, *self.log_entries]


def manifests(store: Store, step: str = "") -> Iterator[tuple[str, Manifest | IntegrityError]]:
    """(key, manifest or what is wrong with it) of every committed output, or of every one of this step."""
    for key, found in listings(store, filter(is_manifest, store.list(step))):
        yield key, found if isinstance(found, IntegrityError) else found.manifest


def listings(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, Remaining | IntegrityError]]:
    """(key, parts that should be there or what is wrong) of each manifest and note of what remains among the keys."""
    for key in keys:
        try:
            if is_manifest(key) and (manifest := read_manifest(store, key)) is not None:
                yield key, Remaining(manifest)
            elif is_note_of_remaining(key) and (remaining := read_remaining(store, key)) is not None:
                yield key, remaining
        except IntegrityError as error:
            yield key, error


def verify_store(store: Store) -> StoreReport:
    """Digest each committed part once, however many outputs share it."""
    keys = store.list("")
    outputs: dict[str, list[str]] = {}
    parts: dict[str, Part] = {}
    damaged: list[Damage] = []
    num_outputs = 0
    for key, found in listings(store, keys):
        num_outputs += is_manifest(key)
        if isinstance(found, IntegrityError):
            damaged.append(Damage(key, "what Frostline wrote", problem_of(found.__cause__)))
            continue
        for part in found.parts:
            place = part_key(found.manifest.step, part.digest)
            parts[place] = part
            outputs.setdefault(place, []).append(key)
    broken = [
        Damage(place, f"{part.kind} with sha256 {part.digest}", problem, tuple(outputs[place]))
        for place, part in parts.items()
        if (problem := _problem(store, place, part)) is not None
    ]
    return StoreReport(num_outputs, len(parts), broken, damaged, list(_damaged_entries(store, keys)))


def is_manifest(key: str) -> bool:
    folders = key.split("/")
    return len(folders) == 3 and folders[2] == "manifest.json"


def is_note_of_remaining(key: str) -> bool:
    folders = key.split("/")
    return len(folders) == 4 and folders[1] == "journal" and folders[3] == NOTE


def _problem(store: Store, key: str, part: Part) -> str | None:
    """What is wrong with a part, or None."""
    with scratch_folder("verify") as folder, writing_below(folder):
        brought = bring(store, key, part.digest, folder / "part")
    if brought is None:
        return "nothing"
    return None if brought.digest == part.digest else f"{brought.size_bytes} bytes with sha256 {brought.digest}"


def _damaged_entries(store: Store, keys: list[str]) -> Iterator[Damage]:
    """Numbered JSON objects outside journals and checkpoints are entries of logs; a log has no gaps."""
    newest: dict[str, int] = {}
    for key in keys:
        if (entry := ENTRY.search(key)) and key.split("/")[1] not in UNFINISHED:
            folder = key.rpartition("/")[0]
            newest[folder] = max(int(entry[1]), newest.get(folder, 0))
    for folder, highest in newest.items():
        for number in range(1, highest + 1):
            key = entry_key(folder, number)
            try:
                found = "nothing" if read_checked(store, key, unseal) is None else None
            except ValueError as error:
                found = str(error)
            if found is not None:
                yield Damage(key, "what Frostline wrote", found)
