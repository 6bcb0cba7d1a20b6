"""`frostline forget`: an image leaves the store and this machine's cache, and does not come back.

Order matters: what keeps it away is written first, so that a crash at any point leaves work for the same command and
never an image that returns.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.forget import forget_in_dataset, forget_in_features, names_images
from data_prep.forgotten import remember
from infra.digests import digest_file
from infra.errors import ConfigError, IntegrityError
from infra.gc import find_garbage, remove_garbage
from infra.outputs import UNFINISHED, Manifest, manifest_key
from infra.remaining import NOTE, read_remaining
from infra.store import Store
from infra.verify import manifests
from infra.workspace import Workspace
from training.register import SHOWN_IMAGES

STEPS_WITH_IMAGES = ("ingest", "featurize", "evaluate", "register")
"""Steps whose outputs hold images or name them. Trained parameters and what MLflow has hold neither."""


@dataclass(frozen=True)
class Forgotten:
    """What was done, by `{step}/{fingerprint}`."""

    image_ids: list[str]
    datasets: list[str]
    features: list[str]
    evaluations: list[str]
    reports: list[str]
    """Of decisions, which stay."""
    num_parts_removed: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def image_id_of(named: str) -> str:
    """An image id as it is, or the id of the picture in a file."""
    if re.fullmatch(r"[0-9a-f]{64}", named):
        return named
    if Path(named).is_file():
        return digest_file(Path(named))
    raise ConfigError(
        f"{named!r} is no file and no image id; expected the path of a picture file, or 64 hexadecimal digits as the "
        "image_id columns have them."
    )


def forget(named: Sequence[str], workspace: Workspace) -> Forgotten:
    """Erase these images. Nothing else may run on the store meanwhile: what was begun is thrown away."""
    image_ids = frozenset(map(image_id_of, named))
    store, cache = workspace.store, workspace.cache
    _check_nothing_is_repaired(workspace)
    found = [_intact(manifest) for _, manifest in manifests(store)]
    remember(store, image_ids)
    datasets = [m for m in found if m.step == "ingest" and forget_in_dataset(m, image_ids, store, cache)]
    features = [m for m in found if m.step == "featurize" and forget_in_features(m, image_ids, store, cache)]
    evaluations = [m for m in found if m.step == "evaluate" and _shows(m, image_ids, workspace)]
    for evaluation in evaluations:
        store.delete(manifest_key("evaluate", evaluation.fingerprint))
    reports = [m for m in found if m.step == "register" and _forget_in_report(m, image_ids, store)]
    num_removed = _remove_unlisted(workspace)
    return Forgotten(
        sorted(image_ids), _named(datasets), _named(features), _named(evaluations), _named(reports), num_removed
    )


def _check_nothing_is_repaired(workspace: Workspace) -> None:
    """What is left of an output under repair is known by a note that forgetting would throw away."""
    keys = [key for step in STEPS_WITH_IMAGES for key in workspace.store.list(f"{step}/journal")]
    notes = [key for key in keys if key.endswith(f"/{NOTE}")]
    if notes:
        recipes = sorted({found.manifest.name for key in notes if (found := read_remaining(workspace.store, key))})
        raise ConfigError(
            f"{len(notes)} outputs are being repaired; expected none while images are forgotten. "
            f"Run first: {', '.join(recipes)}; then forget again."
        )


def _intact(manifest: Manifest | IntegrityError) -> Manifest:
    if isinstance(manifest, IntegrityError):
        raise manifest
    return manifest


def _shows(evaluation: Manifest, image_ids: Collection[str], workspace: Workspace) -> bool:
    """Its predictions name the image; its report may show it."""
    parts = evaluation.parts_of("predictions")
    return any(names_images(part, image_ids, evaluation.step, workspace.cache) for part in parts)


def _forget_in_report(registered: Manifest, image_ids: frozenset[str], store: Store) -> bool:
    """Write the output again without its report where that shows one of the images: the decision stays what
    promotions and rollbacks ask for."""
    if image_ids.isdisjoint(registered.facts.get(SHOWN_IMAGES, ())):
        return False
    kept = [part for part in registered.parts if part.kind != "report"]
    facts = {**registered.facts, SHOWN_IMAGES: []}
    draft = registered.draft.model_copy(update={"parts": kept, "facts": facts})
    changed = Manifest(**{name: getattr(registered, name) for name in Manifest.model_fields} | {"draft": draft})
    store.write(manifest_key("register", registered.fingerprint), changed.model_dump_json(indent=1).encode())
    return True


def _remove_unlisted(workspace: Workspace) -> int:
    """Remove unfinished attempts, every part that no output lists any more, and this machine's copies of them."""
    store, cache = workspace.store, workspace.cache.folder
    for step in STEPS_WITH_IMAGES:
        for folder in UNFINISHED:
            store.delete(f"{step}/{folder}")
    removed = remove_garbage(store, cache, find_garbage(store, cache, grace_seconds=0))
    kept = {part.digest for _, manifest in manifests(store) for part in _intact(manifest).parts}
    for kind in ("parts", "stamps"):
        for path in (cache / kind).glob("*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
    shutil.rmtree(cache / "folders", ignore_errors=True)  # made again from parts when they are needed
    return len(removed)


def _named(found: Collection[Manifest]) -> list[str]:
    return [f"{manifest.step}/{manifest.fingerprint}" for manifest in found]
