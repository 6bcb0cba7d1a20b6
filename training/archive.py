"""A registered version whole in the store, so that MLflow can be filled again from it: `frostline restore`.

The `register` output keeps the version's files and its tags as parts; the trained parameters, which are most of it,
are the `train` output's part already, and an int8 language model is the `quantise` output's.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.digests import canonical_json
from infra.disk import scratch_folder
from infra.errors import ConfigError, IntegrityError
from infra.outputs import Attempt, Manifest, Part, read_manifest
from infra.part_cache import PartCache
from infra.tracking import COMPLETE_TAG, DIGEST_TAG, ModelVersion, open_run
from infra.verify import manifests
from training.candidate import ModelPlace, read_candidate, training_key
from training.champion import mirror
from training.ledger import STEP
from training.package import LANGUAGE_MODEL, TRAINABLES
from training.promotion import Promotion, description
from training.verdicts import read_verdict

FILE, TAGS = "version_file", "version_tags"


@dataclass(frozen=True)
class Restored:
    """A version after `restore`, and whether MLflow had it."""

    version: ModelVersion
    was_there: bool


@dataclass(frozen=True)
class Restoration:
    """What came of `restore`."""

    versions: list[Restored]
    faults: list[str]
    """Why others did not come back, in words."""


def archive(version: ModelVersion, folder: Path, attempt: Attempt) -> list[Part]:
    """Parts with the version's tags and with its files, which lie in `folder` and were checked."""
    package = next(folder.rglob(TRAINABLES)).parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_of_training(path, package))
    parts = [attempt.add_part(path, FILE, 0, name=f"version/{path.relative_to(folder)}") for path in files]
    with scratch_folder("tags") as scratch:
        tags = {name: value for name, value in version.tags.items() if name not in (COMPLETE_TAG, DIGEST_TAG)}
        told = {"tags": tags, "trainables": (package / TRAINABLES).relative_to(folder).as_posix()}
        (scratch / "tags.json").write_bytes(canonical_json(told))
        return [*parts, attempt.add_part(scratch / "tags.json", TAGS, 0, name="register/tags.json")]


def _is_of_training(path: Path, package: Path) -> bool:
    return path == package / TRAINABLES or package / LANGUAGE_MODEL in path.parents


def restore(place: ModelPlace, cache: PartCache) -> Restoration:
    """Register each version that the store decided about and MLflow lacks, in the order of their numbers, and set the
    aliases as ledger and decisions say. Versions that are there are left alone.

    One of which the store has not all, or whose decision is of a Frostline that kept no files, does not keep the others
    from coming back. Raises ConfigError where the store knows no such model."""
    decisions, faults = _decisions(place)
    if not decisions and not faults:
        raise ConfigError(
            f"{place.store.uri}: no decision about a model {place.model_name!r} was found; expected one that was "
            "registered from this store. `frostline status` lists models; --store names another store."
        )
    found = []
    for decision in decisions:
        try:
            found.append(_ensured(place, decision, cache))
        except IntegrityError as error:
            faults.append(str(error))
    mirror(place)
    _challenger(place, decisions)
    return Restoration(found, faults)


def _decisions(place: ModelPlace) -> tuple[list[Manifest], list[str]]:
    """(the newest of each model, in the order of its version's number; damaged ones, which may be of any model)."""
    newest: dict[str, Manifest] = {}
    damaged = []
    for _, found in manifests(place.store, STEP):
        if isinstance(found, IntegrityError):
            damaged.append(str(found))
        elif found.inputs["model_name"] == place.model_name:
            digest = found.inputs["model_digest"]
            known = newest.get(digest)
            if known is None or found.record.created_at > known.record.created_at:
                newest[digest] = found
    return sorted(newest.values(), key=lambda found: int(found.facts["model"]["version"])), damaged


def _ensured(place: ModelPlace, decision: Manifest, cache: PartCache) -> Restored:
    there = place.registry.find_version(place.model_name, decision.inputs["model_digest"])
    if there is not None:
        return Restored(there, was_there=True)
    told = _told(decision, cache)
    train = read_manifest(place.store, training_key(told["tags"]))
    if train is None:
        raise IntegrityError(
            f"{place.model_name}: version {decision.facts['model']['version']} came from a training that "
            f"{place.store.uri} has no more; expected it, for its parameters. Restore the store from a backup."
        )
    with scratch_folder("version") as scratch:
        folder = scratch / "model"
        for part in decision.parts_of(FILE):
            _copy(cache.path(STEP, part), folder / part.name.removeprefix("version/"))
        (trainables,) = train.parts_of("trainables")
        _copy(cache.path(train.step, trainables), folder / told["trainables"])
        for part in train.parts_of(LANGUAGE_MODEL):
            _copy(cache.path(train.step, part), (folder / told["trainables"]).parent / part.name)
        run = open_run(place.registry.uri, train.name, train.fingerprint, {})
        version = place.registry.register_version(
            place.model_name, decision.inputs["model_digest"], run.run_id, folder, told["tags"]
        )
        run.finish()
    read_candidate(place, version)  # what MLflow holds now is what was registered
    place.registry.describe(version, description(Promotion.model_validate(decision.facts["promotion"])))
    return Restored(version, was_there=False)


def _told(decision: Manifest, cache: PartCache) -> dict[str, Any]:
    """`tags` of the version, and where in its files the `trainables` belong."""
    parts = decision.parts_of(TAGS)
    if not parts:
        model = decision.facts["model"]
        raise IntegrityError(
            f"{model['name']}: the decision about version {model['version']} ({STEP}/{decision.fingerprint[:12]}…) "
            "holds no files of it, since an earlier Frostline made it; expected them. Run its recipe with --force "
            "register."
        )
    found: dict[str, Any] = json.loads(cache.path(STEP, parts[0]).read_bytes())
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _challenger(place: ModelPlace, decisions: list[Manifest]) -> None:
    """The newest decision's, unless it serves by now or a person refused it."""
    newest = max(decisions, key=lambda found: found.record.created_at, default=None)
    aliases = place.registry.aliases(place.model_name)
    if newest is None or "challenger" in aliases or newest.facts["promotion"]["alias"] != "challenger":
        return
    verdict = read_verdict(place.store, place.model_name, newest.fingerprint)
    version = place.registry.find_version(place.model_name, newest.inputs["model_digest"])
    if version is None or aliases.get("champion") == version.version or (verdict and verdict.word == "refused"):
        return
    place.registry.set_alias(place.model_name, "challenger", version.version)
