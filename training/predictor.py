"""A registered model in use: captions, answers, labels and numbers from image bytes.

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
from training.asking import Asked, Reply, kinds_of, prompt_of
from training.package import LANGUAGE_MODEL, Package, read_package
from training.replying import replies_to

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from data_prep.tower import Tower
    from training.few_shot import EncodedShots
    from training.head_outputs import HeadReader

MAX_BATCH_ROWS = 64
PACKAGE_DIGEST_TAG = "frostline.package_digest"


class Predictor:
    """A whole model in memory. Its texts are those of the evaluation, up to ties in the last bits of features."""

    def __init__(self, package: Package, tower: Tower, reader: HeadReader) -> None:
        self.package, self.tower, self.reader = package, tower, reader
        self._kinds = kinds_of(package.card.training)

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

        Frozen models of a `base` output come from `store`, or from the store the package names. An int8 model is
        loaded onto the CPU, whatever else is there.
        """
        import torch

        from data_prep.tower import Tower
        from training.head_outputs import HeadReader
        from training.trained import put_together, put_together_in_int8

        package = read_package(folder)
        card = package.card
        tower_folder = verified_folder(card.vision_tower, cache_dir, store)
        if threads:
            torch.set_num_threads(threads)
        shape = (card.num_patches, card.vision_width)
        device = "cuda" if torch.cuda.is_available() and card.quantization is None else "cpu"
        put, language_folder = put_together_in_int8, folder / LANGUAGE_MODEL
        if card.quantization is None:
            put, language_folder = put_together, verified_folder(card.language_model, cache_dir, store)
        model, language = put(card.training, card.answer_space, shape, language_folder, package.trainables)
        tower = Tower(tower_folder, card.features, tower_batch_size, device)
        return cls(package, tower, HeadReader(model.to(device).eval(), language, card.answer_space))

    def caption(self, images: Sequence[bytes]) -> list[str]:
        """One caption per image. Raises DataError for bytes that are no image."""
        return self.answer(images, ["caption"] * len(images), [""] * len(images))

    def ask(self, image: bytes, questions: Sequence[str]) -> list[str]:
        """One answer per question; the image is encoded once."""
        if not questions:
            return []
        patches_BPV = self.tower.encode([image]).repeat(len(questions), axis=0)
        return self._said(patches_BPV, [self.asked(digest_bytes(image), "vqa", text) for text in questions])

    def answer(
        self,
        images: Sequence[bytes],
        tasks: Sequence[str],
        prompts: Sequence[str],
        image_ids: Sequence[str] | None = None,
    ) -> list[str]:
        """One text per (image, task, prompt): what is generated, a label, or numbers with commas between them.
        `image_ids`, by which sampling draws, are told where the bytes are not those of the source: ingest may have
        stored them smaller."""
        image_ids = image_ids or [digest_bytes(image) for image in images]
        out: list[str] = []
        for start in range(0, len(images), MAX_BATCH_ROWS):
            batch = slice(start, start + MAX_BATCH_ROWS)
            out += self.answer_encoded(self.tower.encode(images[batch]), tasks[batch], prompts[batch], image_ids[batch])
        return out

    def answer_encoded(
        self,
        patches_BPV: NDArray[np.float16],
        tasks: Sequence[str],
        prompts: Sequence[str],
        image_ids: Sequence[str],
        shots: Sequence[EncodedShots] | None = None,
    ) -> list[str]:
        """The same from features, all in one batch; with `shots` before each row that is answered by text."""
        asked = [self.asked(*each) for each in zip(image_ids, tasks, prompts, strict=True)]
        return self._said(patches_BPV, asked, shots)

    def task_of(self, prompt: str) -> str:
        """What an image with this prompt is asked for, where nobody says: a prompt asks a question, none a caption; of
        a model that does only one thing, that."""
        wanted = "vqa" if prompt else "caption"
        return wanted if wanted in self._kinds or len(self._kinds) > 1 else next(iter(self._kinds))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model was trained for."""
        return tuple(sorted(self._kinds))

    def replies(
        self, patches_BPV: NDArray[np.float16], asked: Sequence[Asked], shots: Sequence[EncodedShots] | None = None
    ) -> list[Reply]:
        """One per row, whatever kinds are asked for."""
        from training.few_shot import shown_before

        found: list[Reply] = [Reply()] * len(asked)
        for kind in sorted({one.kind for one in asked}):
            rows = [row for row, one in enumerate(asked) if one.kind == kind]
            shown = None
            if shots is not None and kind == "text":
                shown = shown_before(self.reader.model, self.reader.language, [shots[row] for row in rows])
            replies = replies_to(
                self.reader, patches_BPV[rows], [asked[row] for row in rows], self.package.card.generation, shown
            )
            for row, reply in zip(rows, replies, strict=True):
                found[row] = reply
        return found

    def _said(self, patches_BPV: Any, asked: Sequence[Asked], shots: Sequence[EncodedShots] | None = None) -> list[str]:
        return [reply.said for reply in self.replies(patches_BPV, asked, shots)]

    def asked(self, image_id: str, task: str, prompt: str) -> Asked:
        """The prompt as it was trained. Raises ConfigError for a task that was not."""
        if task not in self._kinds:
            raise ConfigError(
                f"{self.package.card.model_name}: task {task!r} was asked; this model was trained for "
                f"{', '.join(sorted(self._kinds))}. Use another model, or train with an objective for this task."
            )
        return Asked(image_id, prompt_of(self.package.card.training, task, prompt), self._kinds[task])


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
    return predictor.answer(images, [predictor.task_of(prompt) for prompt in prompts], prompts)


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
