"""COCO captions: one JSON of images and annotations beside a folder of pictures. Only this file knows its keys."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from data_prep.sources.base import SourceRow
from data_prep.sources.files import file_facts, folder_facts, reader
from infra.errors import DataError


class CocoCaptionsConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["coco_captions"]
    annotations: Path
    images: Path
    split: str | None = None
    """COCO has one file per split; None leaves it to the dataset's split rule."""


class CocoCaptions:
    """One row per captioned image, with all its captions as targets. Images without captions are no rows."""

    def __init__(self, config: CocoCaptionsConfig) -> None:
        self.config = config

    def listing(self) -> list[dict[str, Any]]:
        return [file_facts(self.config.annotations, "annotations"), *folder_facts(self.config.images)]

    def rows(self, start: int = 0) -> Iterator[SourceRow]:
        names, captions = self._read()
        for row, image_id in enumerate(captions):
            if row < start:
                continue
            name = names.get(image_id, "")
            yield SourceRow(
                row=row,
                source="coco_captions",
                image=reader(self.config.images, name or f"(image {image_id} is not listed)"),
                image_uri=name,
                task="caption",
                prompt="",
                targets=tuple(captions[image_id]),
                split=self.config.split,
            )

    def _read(self) -> tuple[dict[int, str], dict[int, list[str]]]:
        path = self.config.annotations
        try:
            found = json.loads(path.read_bytes())
            names = {image["id"]: str(image["file_name"]) for image in found["images"]}
            captions: dict[int, list[str]] = defaultdict(list)
            for annotation in found["annotations"]:
                captions[annotation["image_id"]].append(" ".join(str(annotation["caption"] or "").split()))
            ordered = dict(sorted(captions.items()))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: {type(error).__name__} {error} while reading; expected COCO captions JSON with "
                "images[id, file_name] and annotations[image_id, caption]. Fix the file or use kind: jsonl."
            ) from error
        return names, ordered
