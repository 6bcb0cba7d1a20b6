"""A registered model in use: captions and answers from image bytes.

Shapes: B images, P patches, V vision width.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.pins import verified_folder
from infra.digests import digest_bytes
from infra.errors import ConfigError, DataError, IntegrityError
from infra.store import Store, open_store
from infra.tracking import PACKAGE_PATH, ModelVersion, Registry
from training.generation import Asked, generate
from training.package import Package, read_package

if TYPE_CHECKING:
    import pandas as pd

    from data_prep.tower import Tower
    from training.language_model import LanguageModel
    from training.prefix_model import PrefixModel

MAX_BATCH_ROWS = 64
PACKAGE_DIGEST_TAG = "frostline.package_digest"


class Predictor:
    """A whole model in memory. Its texts are those of the evaluation, up to ties in the last bits of features."""

    def __init__(self, package: Package, tower: Tower, language: LanguageModel, model: PrefixModel) -> None:
        self.package, self.tower, self.language, self.model = package, tower, language, model
        self._prompts = package.card.training.objectives.prompts

    @classmethod
    def load(
        cls,
        folder: Path,
        cache_dir: Path,
        store: Store | None = None,
        threads: int | None = None,
        tower_batch_size: int = 1,
    ) -> Predictor:
        """Load a package folder. Every byte is compared with its digest first; IntegrityError names the file.

        Frozen models of a `base` output come from `store`, or from the store the package names.
        """
        import torch

        from data_prep.tower import Tower
        from training.trained import put_together

        package = read_package(folder)
        card = package.card
        tower_folder = verified_folder(card.vision_tower, cache_dir, store)
        language_folder = verified_folder(card.language_model, cache_dir, store)
        if threads:
            torch.set_num_threads(threads)
        shape = (card.num_patches, card.vision_width)
        model, language = put_together(card.training, card.answer_space, shape, language_folder, package.trainables)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tower = Tower(tower_folder, card.features, tower_batch_size, device)
        return cls(package, tower, language, model.to(device).eval())

    def caption(self, images: Sequence[bytes]) -> list[str]:
        """One caption per image. Raises DataError for bytes that are no image."""
        return self.answer(images, ["caption"] * len(images), [""] * len(images))

    def ask(self, image: bytes, questions: Sequence[str]) -> list[str]:
        """One answer per question; the image is encoded once."""
        if not questions:
            return []
        patches_BPV = self.tower.encode([image]).repeat(len(questions), axis=0)
        image_id = digest_bytes(image)
        return self._generate(patches_BPV, [Asked(image_id, text) for text in self._told("vqa", questions)])

    def answer(
        self,
        images: Sequence[bytes],
        tasks: Sequence[str],
        prompts: Sequence[str],
        image_ids: Sequence[str] | None = None,
    ) -> list[str]:
        """One text per (image, task, prompt). `image_ids`, by which sampling draws, are told where the bytes are not
        those of the source: ingest may have stored them smaller."""
        texts = [self._told(task, [prompt])[0] for task, prompt in zip(tasks, prompts, strict=True)]
        image_ids = image_ids or [digest_bytes(image) for image in images]
        out: list[str] = []
        for start in range(0, len(images), MAX_BATCH_ROWS):
            batch = slice(start, start + MAX_BATCH_ROWS)
            asked = [Asked(*each) for each in zip(image_ids[batch], texts[batch], strict=True)]
            out += self._generate(self.tower.encode(images[batch]), asked)
        return out

    def _generate(self, patches_BPV: Any, asked: Sequence[Asked]) -> list[str]:
        import torch

        patches_BPV = torch.from_numpy(patches_BPV).to(self.tower.device)
        return generate(self.model, self.language, patches_BPV, asked, self.package.card.generation)

    def _told(self, task: str, asked: Sequence[str]) -> list[str]:
        if task not in self._prompts:
            raise ConfigError(
                f"{self.package.card.model_name}: task {task!r} was asked; this model was trained for "
                f"{', '.join(sorted(self._prompts))}. Use another model, or train with a prompt for this task."
            )
        return [self._prompts[task].replace("{prompt}", prompt) for prompt in asked]


def fetch_package(registry: Registry, version: ModelVersion, cache_dir: Path) -> Path:
    """The version's package folder on this machine, downloaded once. Raises IntegrityError where it was altered."""
    target = cache_dir / "packages" / _package_digest(version)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tmp-") as name:
            found = download_package(registry, version, Path(name))
            with contextlib.suppress(OSError):  # another process was first
                found.folder.rename(target)
    return target


def download_package(registry: Registry, version: ModelVersion, folder: Path) -> Package:
    """The version's package, in `folder` with all of its files. Raises IntegrityError where it was altered."""
    expected = _package_digest(version)
    found = read_package(registry.download(version, folder) / PACKAGE_PATH)
    if found.digest != expected:
        raise IntegrityError(
            f"{version.uri}: found a package with digest {found.digest[:12]}…; expected {expected[:12]}…, as "
            "its tag says. It was altered after registration: register the model anew."
        )
    return found


def _package_digest(version: ModelVersion) -> str:
    expected = version.tags.get(PACKAGE_DIGEST_TAG)
    if not expected:
        raise IntegrityError(
            f"{version.uri}: found no tag {PACKAGE_DIGEST_TAG}; expected the one that registering sets. "
            "Use a version that Frostline registered."
        )
    return expected


def load_for_serving(folder: str) -> Predictor:
    """For MLflow's scoring server: places come from the environment, as for every Frostline process."""
    from infra.settings import Settings

    settings = Settings()
    store = open_store(settings.store_uri) if settings.store_uri else None
    threads = os.environ.get("OMP_NUM_THREADS")
    return Predictor.load(Path(folder), settings.cache, store, threads=int(threads) if threads else None)


def answer_table(predictor: Predictor, table: pd.DataFrame) -> list[str]:
    """One text per row: column `image` (path, base64 or bytes), and `prompt` (a question; empty for a caption)."""
    if "image" not in table.columns:
        raise DataError(
            f"found the columns {', '.join(map(str, table.columns)) or 'none'}; expected `image` and optionally "
            "`prompt`. Name the column of pictures `image`."
        )
    images = [image_bytes(value, row) for row, value in enumerate(table["image"])]
    asked = table["prompt"] if "prompt" in table.columns else [None] * len(images)
    prompts = [prompt if isinstance(prompt, str) else "" for prompt in asked]
    return predictor.answer(images, ["vqa" if prompt else "caption" for prompt in prompts], prompts)


def image_bytes(value: object, row: int) -> bytes:
    """Source bytes of an image given as bytes, as a path or as base64."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if os.path.isfile(value):  # noqa: PTH113 - Path.is_file raises on names as long as base64
            return Path(value).read_bytes()
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    told = f"{value[:40]!r}" if isinstance(value, str) else type(value).__name__
    raise DataError(f"row {row}: found {told}; expected an image as a path, base64 text or bytes. Correct this row.")
