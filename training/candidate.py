"""A registered version that may become champion: whole, as it was registered, trained into this store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra import log
from infra.digests import digest_bytes, digest_file
from infra.disk import scratch_folder
from infra.errors import IntegrityError
from infra.outputs import Manifest, manifest_key, read_manifest
from infra.store import Store
from infra.tracking import DIGEST_TAG, ModelVersion, Registry, changed_file
from training.ledger import STEP, Kind, LedgerEntry

if TYPE_CHECKING:
    from training.package import Package

FILES_TAG = "frostline.files"
"""Digests of all files of a version, which users' tools load: the package's own digest covers the package alone."""


@dataclass(frozen=True)
class ModelPlace:
    """Where a model's ledger and its aliases are."""

    store: Store
    registry: Registry
    model_name: str


@dataclass(frozen=True)
class Candidate:
    """A version that was checked, and the `register` output that decided about it, if any."""

    version: ModelVersion
    train: Manifest
    decision: Manifest | None

    @property
    def model_digest(self) -> str:
        return self.train.identity["model_digest"]

    def entry(self, kind: Kind, before: LedgerEntry | None, reasons: Sequence[str]) -> LedgerEntry:
        """The ledger's next entry, by which this version becomes champion."""
        return LedgerEntry(
            number=before.number + 1 if before else 1,
            kind=kind,
            model_digest=self.model_digest,
            version=self.version.version,
            previous_version=before.version if before else None,
            train_fingerprint=self.train.fingerprint,
            register_fingerprint=self.decision.fingerprint if self.decision else None,
            inputs=self.decision.inputs if self.decision else {},
            reasons=list(reasons),
        )


def read_candidate(place: ModelPlace, version: ModelVersion) -> Candidate:
    """Download every file of the version, compare it with what was registered and trained, and run nothing.

    Raises IntegrityError where a file was altered, added or lost, or where this store has no such training."""
    train = _training_of(place, version)
    with scratch_folder("version") as folder:
        checked_package(place.registry, version, train, folder)
    decisions = _decisions(place, train.identity["model_digest"])
    noted = [str(each.facts["files_digest"]) for each in decisions]
    if noted and noted_digest(version) not in noted:
        raise IntegrityError(
            f"{version.uri}: its tag {FILES_TAG} was altered after registration; expected what registering noted in "
            f"{place.store.uri}. Do not load it with MLflow: delete the version and its files, and register the model "
            "anew."
        )
    return Candidate(version, train, decisions[0] if decisions else None)


def noted_digest(version: ModelVersion) -> str:
    """What a `register` output notes of a version's files: who can alter files in MLflow may alter tags too."""
    return digest_bytes(version.tags.get(FILES_TAG, "").encode())


def _decisions(place: ModelPlace, model_digest: str) -> list[Manifest]:
    """The `register` outputs about this model under this name, newest first; their facts say whether it may serve."""
    keys = (manifest_key(STEP, entry["fingerprint"]) for entry in log.entries(place.store, STEP, model_digest))
    found = [manifest for key in keys if (manifest := read_manifest(place.store, key)) is not None]
    return [each for each in reversed(found) if each.inputs["model_name"] == place.model_name]


def training_key(tags: Mapping[str, str]) -> str:
    """Where the output lies that a version's parameters are of: `train`, or `quantise` of an int8 model."""
    step = "quantise" if "frostline.quantise_fingerprint" in tags else "train"
    return manifest_key(step, tags.get(f"frostline.{step}_fingerprint", "none"))


def _training_of(place: ModelPlace, version: ModelVersion) -> Manifest:
    found = read_manifest(place.store, training_key(version.tags))
    if found is None or found.identity["model_digest"] != version.tags.get(DIGEST_TAG) or not version.is_complete:
        raise IntegrityError(
            f"{version.uri}: {place.store.uri} has no training that gave this version; expected one that Frostline "
            "registered from this store. `frostline status` lists them; --store names another store."
        )
    return found


def checked_package(registry: Registry, version: ModelVersion, train: Manifest, folder: Path) -> Package:
    """The version's package, in `folder` with all of its files, each as it was registered. Runs nothing.

    By the tags, and the parameters, an int8 model's language model among them, by the store too: who can alter files
    in MLflow may alter tags. Raises IntegrityError naming a file that was altered, added or lost."""
    from training.package import LANGUAGE_MODEL, TRAINABLES
    from training.predictor import download_package

    (trained,) = train.parts_of("trainables")
    expected = {TRAINABLES: trained.digest, **{part.name: part.digest for part in train.parts_of(LANGUAGE_MODEL)}}
    package = download_package(registry, version, folder)
    if package.card.model_digest != train.identity["model_digest"]:
        raise _altered(version, f"a card of model {package.card.model_digest[:12]}…", train.identity["model_digest"])
    found = {path.relative_to(package.folder).as_posix(): digest_file(path) for path in package.parameters}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            told = f"{name} with sha256 {found[name][:12]}…" if name in found else f"no {name}"
            raise _altered(version, told, expected.get(name, "no such file"))
    if change := changed_file(package.folder.parents[1], version.tags.get(FILES_TAG, "")):
        raise IntegrityError(
            f"{version.uri}: {change} after registration; expected every file as its tag {FILES_TAG} says. Do not load "
            "it with MLflow: delete the version and its files, and register the model anew."
        )
    return package


def _altered(version: ModelVersion, found: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"{version.uri}: found {found}; expected {expected[:12]}…, as trained. The version was altered after "
        "registration: register the model anew."
    )
