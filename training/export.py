"""A registered version as a plain folder: its package, and its PEFT adapter where the regime is one of PEFT's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.disk import not_writable
from infra.errors import ConfigError
from infra.outputs import manifest_key, read_manifest
from infra.part_cache import PartCache
from infra.tracking import DIGEST_TAG, ModelVersion, Registry
from training.package import read_package
from training.predictor import download_package

PEFT = "peft"


def export(registry: Registry, version: ModelVersion, cache: PartCache, folder: Path) -> list[Path]:
    """Fill a new or empty folder, all at once; gives its files. Nothing of the version is run.

    Raises IntegrityError where a file was altered, ConfigError where the folder holds something."""
    with filling(folder) as filled, tempfile.TemporaryDirectory(dir=filled.parent) as name:
        package = download_package(registry, version, Path(name))
        for file in package.files:
            target = filled / file.relative_to(package.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        _add_adapter(version, cache, filled)
        read_package(filled)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check_is_new(folder: Path) -> None:
    """Raises ConfigError where the folder holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: something is there; expected a new or an empty folder. Name another one.")


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` once it is filled. Raises ConfigError where something is there,
    or it cannot be written."""
    check_is_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as name:
            filled = Path(name) / "export"
            filled.mkdir()
            yield filled
            filled.rename(folder)
    except OSError as error:
        raise not_writable(str(folder), error, "FOLDER") from error


def _add_adapter(version: ModelVersion, cache: PartCache, folder: Path) -> None:
    """From the training's output, where this store has it."""
    train = read_manifest(cache.store, manifest_key("train", version.tags.get("frostline.train_fingerprint", "none")))
    if train is None or train.identity["model_digest"] != version.tags.get(DIGEST_TAG):
        return
    for part in train.parts_of(PEFT):
        target = folder / part.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cache.path("train", part), target)
